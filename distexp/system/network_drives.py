"""Which folders lie on a network file system, and where their locks and databases lie instead.

Such a file system may have no locks, locks that hang, or reads that are old (NFS, Lustre, sshfs, ...). What
the processes of one host agree upon is then kept on a disk of that host, for its user alone.
"""

import functools
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from distexp.errors import UserError
from distexp.text import harmless_name

NETWORK_TYPES = """
    nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afpfs afs webdav davfs davfs2 ncpfs coda
    lustre gpfs mmfs beegfs ceph glusterfs orangefs pvfs2 panfs wekafs quobyte juicefs mfs moosefs lizardfs
    seaweedfs sshfs rclone s3fs goofys gcsfuse
"""  # as the table of mounts calls them, without `fuse.`
DRIVE_REMOTE = 4  # of Windows' GetDriveTypeW
NAME_CHARS = 40  # of a folder's own name, in that of its local place
NAME_DIGITS = 16  # of a hash of its path, which follow


@functools.lru_cache(maxsize=1024)
def network_type(folder: Path) -> str:
    """Return the type of the network file system on which a folder is, such as `nfs4`; empty: on a disk."""
    place = os.path.realpath(folder)
    there = place
    while not os.path.lexists(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    try:
        device = os.stat(there).st_dev
    except OSError:  # it goes while it is looked at
        return _type_at(place)
    if device not in _types:
        _types[device] = _type_at(place)
    return _types[device]


_types: dict[int, str] = {}  # of devices: mounts stay while a process lives, and sweeps have many folders


def _type_at(place: str) -> str:
    if sys.platform == "win32":
        return "smb" if _is_remote(place) else ""
    found, kind = "", ""
    for mount in _mounts():
        point = mount.mountpoint.rstrip(os.sep)
        if (place == point or place.startswith(point + os.sep)) and len(point) >= len(found):
            found, kind = point, mount.fstype.lower().removeprefix("fuse.")
    return kind if kind in NETWORK_TYPES.split() else ""


def _is_remote(place: str) -> bool:
    """Return whether a path of Windows is on a share; asks for its own drive alone, as others may be slow."""
    import ctypes

    drive, _ = os.path.splitdrive(place)
    if drive.startswith("\\\\") and drive[2:3] != "?":  # which may not answer now
        return True
    return bool(ctypes.windll.kernel32.GetDriveTypeW(f"{drive}\\") == DRIVE_REMOTE)  # type: ignore[attr-defined,unused-ignore]


def _mounts() -> Sequence[Any]:
    try:
        return psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):  # a container without /proc
        return ()


@functools.lru_cache(maxsize=1024)
def local_place(folder: Path) -> Path | None:
    """Return the private folder of this host and user for what belongs to a folder on a network drive.

    None: the folder itself is on a disk. The same path leads to the same place, for all processes of a user.

    Raises:
        UserError: Every folder that could be it is on a network drive, or cannot be written.
    """
    if not (kind := network_type(folder)):
        return None
    path = os.path.realpath(folder)
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:NAME_DIGITS]
    name = f"{harmless_name(os.path.basename(path))[:NAME_CHARS]}-{digest}"
    tried = [*_bases()]
    for base in tried:
        with suppress(OSError):
            if not network_type(base):
                _make_private(base)
                _make_private(base / name)
                return base / name
    raise UserError(
        f"{folder} is on a network file system ({kind}), and no folder on a disk of this host takes its "
        f"locks and its journal (tried {', '.join(map(str, tried))}): set XDG_STATE_HOME to one"
    )


def lock_of(path: Path) -> Path:
    """Return the lock file for a file: beside it, or in the local place of its folder on a network drive."""
    place = local_place(path.parent)
    name = f"{path.name}.lock"
    return path.with_name(name) if place is None else place / name


def _bases() -> Iterator[Path]:
    for variable in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "distexp"
    with suppress(RuntimeError):  # nobody's home is known
        yield Path.home() / ".local" / "state" / "distexp"
    user = os.geteuid() if sys.platform != "win32" else "user"
    for shared in ("/var/tmp", tempfile.gettempdir()):  # the first outlives a reboot
        if os.path.isdir(shared):
            yield Path(shared) / f"distexp-{user}"


def _make_private(folder: Path) -> None:
    """Make a folder that this user alone may use.

    Raises:
        OSError: It is somebody else's, a link, or cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return  # a profile is its user's alone
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not this user's")
    folder.chmod(0o700)
