"""Copies of a folder's code, by hash: made once, run from, sent to other machines as one tar file.

A copy holds every file that git does not ignore; without git, all but what a sweep itself writes and hidden
files. It is made whole under another name, then renamed: a copy that is there is whole.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from distexp.errors import UserError
from distexp.system.code import CodeState
from distexp.system.files import PRIVATE_FOLDER
from distexp.system.git import ask_git
from distexp.text import count_text

LISTING_S = 120.0  # for git to list a large repository on a cold network drive; then it is no copy at all
MAX_FILES = 20_000  # more than any repository of experiments; a folder of data that git does not ignore
MAX_BYTES = 512 * 1024 * 1024  # of one copy: code, not data
SETTLED_NS = 2_000_000_000  # two changes of a folder in less may leave one time, on some disks
KEPT = 3  # copies in a folder, however old
KEPT_S = 7 * 24 * 3600.0  # since a task last began in a copy: one that runs for longer may miss files of it
NAME_DIGITS = 20  # of a copy's hash
STATE_FILE = ".distexp_code.json"  # in each copy: which code it is, and which files
NEVER = (".git", ".experiment_manager", ".experiment_spool", ".experiment_token", "__pycache__", STATE_FILE)
OWN = ".experiment_"  # so begin the names of what a manager keeps


def code_files(folder: Path) -> list[str]:
    """Return the files to copy, relative with slashes, sorted.

    Raises:
        GitTimeout: Git does not say which.
    """
    words = ("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listed = ask_git(folder, *words, limit_s=LISTING_S)
    if not listed:  # no git, or it ignores the whole folder
        found = list(_walk(folder))
    else:
        found = []
        for name in filter(None, listed.split("\0")):
            path = folder / name
            if os.path.isdir(path) and not path.is_symlink():  # a repository, or a submodule without files
                inner = code_files(path) if os.path.lexists(path / ".git") else _walk(path)
                found += [f"{name.rstrip('/')}/{each}" for each in inner]
            else:
                found.append(name)
    return sorted({name for name in found if _travels(name) and _is_file_or_link(folder / name)})


def _is_file_or_link(path: Path) -> bool:
    try:
        kind = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(kind) or stat.S_ISLNK(kind)


def _walk(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "node_modules"]
        for name in files:
            if not name.startswith("."):
                yield Path(where, name).relative_to(folder).as_posix()


def _travels(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_result = parts[0].startswith("results_") or parts[-1].startswith(
        ("final_results.csv", "experiment_manager.log")
    )
    return not is_result and not any(part in NEVER for part in parts)


def make_copy(folder: Path, into: Path, state: CodeState) -> str:
    """Copy the code of a folder to `into/<hash>` unless that is there; return the hash.

    Raises:
        UserError: It is too much; the largest files are named.
        OSError: A file cannot be read or written.
    """
    names = code_files(folder)
    check_size(folder, names)
    into.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    fresh = into / f"new-{secrets.token_hex(4)}"
    digest = hashlib.sha256(json.dumps(asdict(state)).encode())
    copied = []
    try:
        fresh.mkdir()
        for name in names:
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # it goes while it is looked at
                _copy(folder, name, target)
                digest.update(f"{name}\0{_content(target)}\0".encode(errors="surrogateescape"))
                copied.append(name)
        about = {"state": asdict(state), "files": copied}
        (fresh / STATE_FILE).write_text(json.dumps(about), encoding="utf-8")
        code = digest.hexdigest()[:NAME_DIGITS]
        with contextlib.suppress(OSError):  # another process has made the same
            fresh.rename(into / code)
        os.utime(into / code)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    forget_old(into, code)
    return code


def _copy(folder: Path, name: str, target: Path) -> None:
    """Copy one file or link; a link out of the folder leads to the same place from the copy."""
    shutil.copy2(folder / name, target, follow_symlinks=False)
    if target.is_symlink() and _leaves(name, link := os.readlink(target)) and not os.path.isabs(link):
        target.unlink()
        target.symlink_to(os.path.join((folder / name).parent, link))


def _leaves(name: str, link: str) -> bool:
    """Return whether a link of this name leads out of the folder that names are relative to."""
    leads = os.path.normpath(os.path.join(os.path.dirname(name), link))
    return os.path.isabs(link) or leads.split(os.sep)[0] in ("..", "")  # "": Windows calls no \\x absolute


def check_size(folder: Path, names: list[str]) -> None:
    """Refuse more than a copy may hold.

    Raises:
        UserError: It is too much; the largest files are named.
    """
    sizes = {name: os.lstat(folder / name).st_size for name in names if os.path.lexists(folder / name)}
    total = sum(sizes.values())
    if len(sizes) <= MAX_FILES and total <= MAX_BYTES:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    shown = ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MB)" for name in largest)
    raise UserError(
        f"the code of {folder} cannot be copied: {count_text(len(sizes), 'file')} with "
        f"{total / 2**20:.0f} MB are not ignored by git, and a copy holds {MAX_FILES} with "
        f"{MAX_BYTES / 2**20:.0f} MB at most. Put data into .gitignore; the largest: {shown}"
    )


def _content(path: Path) -> str:
    """Return what tells a file from others of its name: its bytes, whether it may be run, where it leads."""
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    with path.open("rb") as file:
        return f"{os.access(path, os.X_OK)} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def forget_old(into: Path, current: str) -> None:
    """Delete copies in which no task has begun for long, but for the last few; and what kills have left."""
    used_s = dict[Path, float]()
    for each in into.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process forgets, too
            used_s[each] = each.stat().st_mtime
    copies = sorted((each for each in used_s if os.path.isdir(each)), key=lambda each: -used_s[each])
    kept = {current, *(each.name for each in copies[:KEPT])}
    before_s = time.time() - KEPT_S
    for old in used_s:
        if used_s[old] < before_s and old.name.partition(".")[0] not in kept:
            shutil.rmtree(old, ignore_errors=True)
            with contextlib.suppress(OSError):  # a folder that is gone by now
                old.unlink()


def archive_of(copy: Path) -> Path:
    """Return where the tar file of a copy is."""
    return copy.with_name(f"{copy.name}.tar")


def make_archive(copy: Path) -> Path:
    """Return the tar file of a copy, made unless it is there.

    It holds what was copied, but no links out of the copy; nothing that tasks have written there.
    """
    path = archive_of(copy)
    if not os.path.exists(path):
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            with tarfile.open(fresh, "w") as tar:
                for name in [STATE_FILE, *files_of(copy)]:
                    with contextlib.suppress(FileNotFoundError):  # a task has deleted it
                        tar.add(copy / name, name, recursive=False, filter=partial(_stays, copy))
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    return path


def _stays(copy: Path, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return what the tar file holds of a file: its content, also where two names have the same."""
    if member.islnk():
        member.type, member.linkname = tarfile.REGTYPE, ""
        member.size = (copy / member.name).stat().st_size
    return None if member.issym() and _leaves(member.name, member.linkname) else member


def unpack(archive: Path, copy: Path) -> None:
    """Make a copy of what came as a tar file. Nothing is written outside it.

    Raises:
        tarfile.TarError, OSError: It is none, or holds what would.
    """
    fresh = copy.with_name(f"new-{secrets.token_hex(4)}")
    try:
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
            members = tar.getmembers()
            if bad := next(filter(_is_foreign, members), None):
                raise tarfile.TarError(f"{bad.name!r} is no file of a copy, or leaves it")
            tar.extractall(fresh, sorted(members, key=tarfile.TarInfo.issym))  # nothing goes through a link
        with contextlib.suppress(OSError):  # another worker has made the same
            fresh.rename(copy)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_foreign(member: tarfile.TarInfo) -> bool:
    if member.issym():
        return _leaves("", member.name) or _leaves(member.name, member.linkname)
    return _leaves("", member.name) or not member.isfile()


def state_of(copy: Path) -> CodeState:
    """Return which code a copy holds."""
    return CodeState(**_about(copy)["state"])


def files_of(copy: Path) -> list[str]:
    """Return the files that were copied."""
    files: list[str] = _about(copy)["files"]
    return files


def _about(copy: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((copy / STATE_FILE).read_text(encoding="utf-8"))
    return about


class Links:
    """Shows in copies of the code what stands beside it, such as `data/` and `.venv/`: by links."""

    def __init__(self, root: Path) -> None:
        """Look at nothing yet; `root` is the folder."""
        self._root = root
        self._folders = dict[Path, set[str]]()  # with code, by copy
        self._seen = dict[Path, tuple[int, int]]()  # when folder and copy last changed

    def add_to(self, copy: Path) -> None:
        """Link what the copy lacks; only folders that have changed since the last time are listed.

        A folder that holds code too is one of the copy's own; there what it lacks is linked, one by one.
        """
        if copy not in self._folders:
            self._folders[copy] = _folders_of(copy)
        for folder in self._folders[copy]:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it has gone since
                self._add(self._root / folder, copy / folder)

    def _add(self, there: Path, here: Path) -> None:
        changed = there.stat().st_mtime_ns, here.stat().st_mtime_ns
        if self._seen.get(here) == changed:
            return
        for name in {*os.listdir(there)} - {*os.listdir(here)}:
            if name not in NEVER and not name.startswith(OWN):
                with contextlib.suppress(FileExistsError):
                    _link(there / name, here / name)
        if max(changed) < time.time_ns() - SETTLED_NS:
            self._seen[here] = changed


def _folders_of(copy: Path) -> set[str]:
    folders = {""}
    for name in files_of(copy):
        while (name := name.rpartition("/")[0]) not in folders:
            folders.add(name)
    return folders


def _link(target: Path, place: Path) -> None:
    if sys.platform == "win32" and os.path.isdir(target):
        import _winapi

        _winapi.CreateJunction(str(target), str(place))  # a symbolic link needs a right that users lack
    elif sys.platform != "win32":
        place.symlink_to(target)
