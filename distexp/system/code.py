"""Which code a working folder holds: one short hash that every edit of it changes.

In a git repository it is made of the tracked files of the folder, as they are there now, committed or not;
else of its Python files. What a sweep writes and reads itself is no code: `results_*/`, `final_results.csv`
and the YAML files directly in `configs/`, whose values stand in the rows.
"""

import hashlib
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distexp.errors import GitTimeout
from distexp.system.files import regular
from distexp.system.git import ask_git
from distexp.text import count_text

CODE_DIGITS = 12  # of its hash, of which people are shown `SHOWN_DIGITS`
SHOWN_DIGITS = 6
MAX_PYTHON_FILES = 5_000  # looked at where there is no git
_NO_CODE = (".", ":(exclude)results_*", ":(exclude)*final_results.csv*")  # for git: what is tracked but these
_SUBMODULE = "160000"  # git's mode of one

Mark = tuple[int, int, int, int] | None  # what changes with a file: inode, size, times; None: it is not there


@dataclass(frozen=True)
class CodeState:
    """The code of a folder at one moment."""

    code: str = ""  # empty where the folder holds none
    commit: str = ""  # empty without git
    is_dirty: bool | None = None  # whether tracked files of the folder differ from the commit


class FolderCode:
    """Says which code a folder holds, cheaply while nothing changes.  Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._state: CodeState | None = None
        self._watched: list[str] = []  # files and folders in which every change of the code shows
        self._marks: list[Mark] = []
        self._hashes: dict[str, tuple[Mark, str]] = {}  # of Python files, where there is no git

    def now(self) -> CodeState:
        """Return the code as it is now; git is asked only if a file has changed since the last time.

        While git does not answer, it is what it was before, or unknown (empty).
        """
        with self._lock:
            if self._state is None or [_mark(path) for path in self._watched] != self._marks:
                try:
                    self._state = self._of_git() or self._of_python_files()
                except GitTimeout:
                    self._watched = []  # whatever was marked meanwhile: the next look asks again
                    return self._state or CodeState()
            return self._state

    def _watch(self, paths: list[str]) -> None:
        """Remember how the files are before they are read: an edit meanwhile shows at the next look."""
        self._watched, self._marks = paths, [_mark(path) for path in paths]

    def _of_git(self) -> CodeState | None:
        """Return what git tracks, None where it tracks nothing of the folder."""
        places = ask_git(self._folder, "rev-parse", "--absolute-git-dir", "--show-toplevel", "--show-prefix")
        tracked = ask_git(self._folder, "ls-files", "--stage", "--full-name", "-z", "--", *_NO_CODE)
        if not places or not tracked:
            return None
        git_folder, top, prefix = (*places.split("\n"), "")[:3]
        blobs, submodules = dict[str, str](), set[str]()
        for line in tracked.split("\0")[:-1]:
            about, _, path = line.partition("\t")
            mode, blob, _ = about.split(" ")
            blobs[path] = blob
            submodules |= {path} if mode == _SUBMODULE else set()
        own = [os.path.join(git_folder, name) for name in ("index", "HEAD", os.path.join("logs", "HEAD"))]
        self._watch(own + [os.path.join(top, path) for path in blobs])
        changed = ask_git(self._folder, "diff-files", "--name-only", "-z", "--", *_NO_CODE) or ""
        names = [name for name in dict.fromkeys(changed.split("\0")) if name in blobs]
        blobs |= _edited(top, [name for name in names if name not in submodules])
        blobs |= {name: _commit(Path(top, name)) for name in names if name in submodules}
        status = ask_git(self._folder, "status", "--porcelain", "--untracked-files=no", "--", *_NO_CODE)
        return CodeState(
            _code({name.removeprefix(prefix): blob for name, blob in blobs.items() if blob}),
            _commit(self._folder),
            None if status is None else bool(status),
        )

    def _of_python_files(self) -> CodeState:
        found = [os.fspath(path) for path in python_files(self._folder)]
        self._watch([os.fspath(self._folder), *{os.path.dirname(path) for path in found}, *found])
        marks = dict(zip(self._watched, self._marks, strict=True))
        known, self._hashes = self._hashes, {}
        for path in found:
            before = known.get(path)
            is_same = before is not None and before[0] == marks[path]
            with suppress(OSError):  # it goes while it is looked at
                text = before[1] if before and is_same else _hash_of(path)
                self._hashes[path] = marks[path], text
        root = self._folder
        return CodeState(
            _code({Path(path).relative_to(root).as_posix(): h for path, (_, h) in self._hashes.items()})
        )


def python_files(folder: Path) -> Iterator[Path]:
    """Return the Python files in the folder, in its `src/` and in folders of it that hold some, sorted."""
    number = 0
    for top in (folder, *_code_folders(folder)):
        for where, folders, files in os.walk(top):
            folders[:] = [] if top == folder else sorted(filter(_may_hold_code, folders))
            for name in sorted(name for name in files if name.endswith(".py")):
                if (number := number + 1) > MAX_PYTHON_FILES:
                    return
                yield Path(where, name)


def _code_folders(folder: Path) -> list[Path]:
    with suppress(OSError):
        named = (each for each in sorted(folder.iterdir()) if _may_hold_code(each.name))
        folders = filter(os.path.isdir, named)
        return [each for each in folders if each.name == "src" or next(each.glob("*.py"), None)]
    return []


def _may_hold_code(name: str) -> bool:
    return not name.startswith((".", "results_")) and name not in ("__pycache__", "node_modules")


def _commit(folder: Path) -> str:
    return ask_git(folder, "rev-parse", "HEAD") or ""


def _edited(top: str, names: list[str]) -> dict[str, str]:
    """Return git's hash of files that differ from the index: as if they were added now; empty: not there."""
    modes = {name: _mode(os.path.join(top, name)) for name in names}
    found = {name: "" for name in names}
    found |= {name: _link_hash(os.path.join(top, name)) for name in names if stat.S_ISLNK(modes[name])}
    files = [name for name in names if stat.S_ISREG(modes[name]) and "\n" not in name]
    hashes = ask_git(Path(top), "hash-object", "--stdin-paths", given="".join(f"{name}\n" for name in files))
    return found | dict(zip(files, (hashes or "").split(), strict=False))


def _link_hash(path: str) -> str:
    """Return git's hash of a link: a blob that holds where it leads."""
    target = os.fsencode(os.readlink(path))
    return hashlib.sha1(b"blob %d\0%b" % (len(target), target)).hexdigest()


def _hash_of(path: str) -> str:
    with open(path, "rb", opener=regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mode(path: str) -> int:
    with suppress(OSError):
        return os.lstat(path).st_mode
    return 0


def _mark(path: str) -> Mark:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _code(files: dict[str, str]) -> str:
    """Return the hash of files by name; it begins with a letter, so that no reader takes it for a number."""
    code = {name: text for name, text in files.items() if not _is_config(name)}
    if not code:
        return ""
    lines = "".join(f"{name}\0{text}\n" for name, text in sorted(code.items()))
    digest = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    return re.sub(r"^\d+", "", digest)[:CODE_DIGITS]


def _is_config(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parent == PurePosixPath("configs") and path.suffix in (".yaml", ".yml")


def is_code(text: str) -> bool:
    """Return whether a text is a code of ours."""
    return re.fullmatch(rf"[a-f][0-9a-f]{{{CODE_DIGITS - 1}}}", text) is not None


def other_code_text(codes: Sequence[str], now: str) -> str:
    """Return how many tasks ran other code, and which; empty for none."""
    if not codes:
        return ""
    often: Mapping[str, int] = Counter(codes)
    (first, _), *others = sorted(often.items(), key=lambda each: -each[1])
    more = f" and {count_text(len(others), 'other')}" if others else ""
    which = f"{first[:SHOWN_DIGITS]}{more}, now {now[:SHOWN_DIGITS] or 'none'}"
    return f"{count_text(len(codes), 'finished task')} ran other code ({which})"
