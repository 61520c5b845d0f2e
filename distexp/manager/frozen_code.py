"""The copy of the code that tasks run from (`--freeze-code`), and that workers on other machines fetch."""

import base64
import logging
import os
import re
import threading
import time
from collections.abc import Callable

from distexp.errors import GitTimeout, ProtocolError, UserError
from distexp.system.code import SHOWN_DIGITS, FolderCode
from distexp.system.code_copy import NAME_DIGITS, code_files, files_of, make_archive, make_copy
from distexp.text import count_text
from distexp.wire.messages import Code, CodeReply
from distexp.workdir import Workdir

LOOK_S = 5.0  # between two looks at the code of a folder that is not frozen, as at its configs: git is slow
PIECE_BYTES = 512 * 1024  # of a tar file in one reply: base64 and JSON fit into a message

log = logging.getLogger("distexp.manager")


class FrozenCode:
    """The copies of one folder's code.  Safe from any thread."""

    def __init__(self, workdir: Workdir, *, is_frozen: bool) -> None:
        """Copy nothing yet. `is_frozen`: all tasks run from a copy, not only those of workers that fetch."""
        self._workdir, self.is_frozen = workdir, is_frozen
        self._folder = FolderCode(workdir.root)
        self._lock = threading.Lock()
        self._copy = self._copied = ""  # its name, and the code that it holds
        self._marks: object = None  # of what was copied
        self._looks_at_s = 0.0  # monotonic: when the code is looked at again
        self._problem = ""  # why the code of now cannot be copied, once said

    def code(self) -> str:
        """Return which code tasks run from now on; empty where the folder holds none."""
        return self._copied if self.is_frozen and self._copy else self.code_here()

    def code_here(self) -> str:
        """Return which code the folder holds now."""
        return self._folder.now().code

    def freeze(self) -> None:
        """Take a new copy of the code as it is now, if tasks run from one.

        Raises:
            UserError: It is too much, or cannot be read or written.
        """
        self._looks_at_s = 0.0
        if self.is_frozen:
            before, now = self._copy, self._take()
            if now != before:
                files = count_text(len(files_of(self._workdir.code_copies / now)), "file")
                code = self._copied[:SHOWN_DIGITS]  # as rows have it
                log.info("Tasks run from a copy of the code as it is now (%s, %s)", code, files)

    def renew(self) -> None:
        """Do the same, or say why that cannot be: then tasks go on with the copy before."""
        self._looks_at_s = 0.0
        if self.is_frozen:
            self._or_before(self.freeze)

    def copy_for(self, *, fetches: bool) -> str:
        """Return which copy a worker's next task runs from; empty: none.

        Raises:
            UserError: As for `freeze`, when there is no copy yet.
        """
        if not self.is_frozen and fetches and time.monotonic() >= self._looks_at_s:
            self._or_before(self._take)
            self._looks_at_s = time.monotonic() + LOOK_S
        return self._copy if self.is_frozen or fetches else ""

    def _or_before(self, take: Callable[[], object]) -> None:
        try:
            take()
            self._problem = ""
        except UserError as error:
            if not self._copy:
                raise
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("%s. Tasks go on with the copy before", error)

    def _take(self) -> str:
        with self._lock:
            try:
                marks = _marks(self._workdir)
                if marks != self._marks or not os.path.isdir(self._workdir.code_copies / self._copy):
                    state = self._folder.now()
                    self._copy = make_copy(self._workdir.root, self._workdir.code_copies, state)
                    self._marks, self._copied = marks, state.code
            except (OSError, GitTimeout) as error:
                raise UserError(f"the code cannot be copied ({error})") from error
            return self._copy

    def read(self, request: Code) -> CodeReply:
        """Return one piece of a copy.

        Raises:
            ProtocolError: There is no such copy.
        """
        copy = self._workdir.code_copies / request.copy
        if re.fullmatch(rf"[0-9a-f]{{{NAME_DIGITS}}}", request.copy) is None or not os.path.isdir(copy):
            raise ProtocolError(f"code: there is no copy {request.copy!r}")
        with self._lock:
            path = make_archive(copy)
        with path.open("rb") as file:
            file.seek(request.offset)
            data = file.read(PIECE_BYTES)
            return CodeReply(data=base64.b64encode(data).decode(), size=file.seek(0, 2))


def _marks(workdir: Workdir) -> object:
    """Return what changes with every edit of the code."""
    found = {}
    for name in code_files(workdir.root):
        try:
            about = (workdir.root / name).lstat()
        except OSError:
            continue
        found[name] = about.st_ino, about.st_size, about.st_mtime_ns, about.st_mode
    return found
