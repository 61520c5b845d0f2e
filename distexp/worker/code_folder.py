"""Which folder a task's code is in: the working folder, or a copy of the manager's code, perhaps fetched."""

import base64
import contextlib
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from distexp.errors import ProtocolError
from distexp.system.code import CodeState, FolderCode
from distexp.system.code_copy import Links, archive_of, forget_old, state_of, unpack
from distexp.system.files import PRIVATE_FOLDER, make_ignored
from distexp.wire.client import Client
from distexp.wire.messages import Code, CodeReply
from distexp.workdir import Workdir


class CodeFolder:
    """The folder that this process and its children import from. For one thread at a time."""

    def __init__(self, workdir: Workdir, connect: Callable[[], Client]) -> None:
        """Stay where the process is. `connect` makes a client of the manager."""
        self.workdir, self._connect = workdir, connect
        self._folder_code = FolderCode(workdir.root)
        self._own = [str(each) for each in (workdir.root, workdir.root / "src")]
        self._links = Links(workdir.root)
        self.copy = ""  # that it is in; empty: the working folder

    def now(self) -> CodeState:
        """Return the code that a child which is started now imports."""
        return state_of(self.workdir.code_copies / self.copy) if self.copy else self._folder_code.now()

    def enter(self, copy: str) -> bool:
        """Go to a copy, or the working folder for an empty name; return whether that is another one.

        Raises:
            DistexpError: The manager does not send it.
            OSError, tarfile.TarError: It cannot be written.
        """
        root = self.workdir.root
        if copy:
            root = self.workdir.code_copies / copy
            if not os.path.isdir(root):
                self._fetch(copy)
            self._links.add_to(root)
            with contextlib.suppress(OSError):  # of another user
                os.utime(root)  # a task begins in it
        if copy == self.copy and (not copy or _is_here(root)):
            return False
        here = [str(each) for each in (root, root / "src") if os.path.isdir(each)]
        sys.path[:] = [*here, *(each for each in sys.path if each not in self._own)]
        self._own, self.copy = here, copy
        os.chdir(root)
        return True

    def _fetch(self, copy: str) -> None:
        make_ignored(self.workdir.state)
        self.workdir.code_copies.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        target = self.workdir.code_copies / copy
        archive = archive_of(target).with_name(f"{copy}.{secrets.token_hex(4)}.tar")
        try:
            with self._connect() as client, archive.open("wb") as file:
                size = None
                while size is None or file.tell() < size:
                    piece = client.call(Code(copy=copy, offset=file.tell()), CodeReply)
                    size = piece.size
                    if not piece.data and file.tell() < size:
                        raise ProtocolError("code: the manager sent an empty piece")
                    file.write(base64.b64decode(piece.data))
            unpack(archive, target)
            forget_old(self.workdir.code_copies, copy)
        finally:
            with contextlib.suppress(OSError):
                archive.unlink()


def _is_here(folder: Path) -> bool:
    """Return whether this process is in the folder, and not in one of that name which was deleted."""
    try:
        return os.path.samefile(folder, ".")
    except FileNotFoundError:
        return False
