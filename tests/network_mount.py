"""A mount that behaves as a bad network drive: it has no locks, and shows for a while what it has seen.

    python -m tests.network_mount BACKING MOUNTPOINT

serves the folder BACKING at MOUNTPOINT, as root on Linux, until that is unmounted. The table of mounts calls
it `fuse.sshfs`. Whoever writes into BACKING directly is another host. Speaks the kernel's protocol of FUSE
(https://man7.org/linux/man-pages/man4/fuse.4.html, include/uapi/linux/fuse.h), as much of it as files need.
"""

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import ENVIRONMENT

STALE_S = 60  # for which the kernel believes names, sizes and times, as that of NFS does
POSIX_LOCKS, BIG_WRITES, FLOCK_LOCKS = 1 << 1, 1 << 5, 1 << 10
MAX_WRITE = 128 * 1024
ROOT_NODE = 1
MNT_DETACH = 2
FORGET, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 2, 26, 36, 38, 42

_libc = ctypes.CDLL(None, use_errno=True)


def may_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


@contextmanager
def mounted(backing: Path, at: Path) -> Iterator[Path]:
    """Serve a folder at another in a process of its own."""
    for each in (backing, at):
        each.mkdir(exist_ok=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.network_mount", backing, at],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "mounted\n"
        yield at
    finally:
        _libc.umount2(os.fsencode(at), MNT_DETACH)
        server.kill()
        server.communicate()


class Drive:
    """Answers the kernel from a folder."""

    def __init__(self, backing: str) -> None:
        self.paths = {ROOT_NODE: backing}
        self.nodes = {backing: ROOT_NODE}
        self.last = ROOT_NODE
        self.answers: dict[int, Callable[[int, bytes], bytes]] = {
            **{1: self.lookup, 3: self.getattr, 4: self.setattr, 5: self.readlink, 6: self.symlink},
            **{9: self.mkdir, 10: self.unlink, 11: self.rmdir, 12: self.rename, 45: self.rename2},
            **{14: self.open, 15: self.read, 16: self.write, 17: self.statfs, 18: self.release},
            **{20: self.fsync, 25: self.done, 26: self.init, 27: self.done16, 28: self.readdir},
            **{29: self.done, 30: self.done, 31: self.no_lock, 32: self.no_lock, 33: self.no_lock},
            35: self.create,
        }

    def serve(self, kernel: int) -> None:
        while True:
            try:
                message = os.read(kernel, 1 << 20)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # unmounted
            _, opcode, unique, node = struct.unpack_from("=IIQQ", message)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            status, body = 0, b""
            try:
                answer = self.answers.get(opcode)
                if answer is None:
                    raise OSError(errno.ENOSYS, "")
                body = answer(node, message[40:])
            except OSError as error:
                status = -(error.errno or errno.EIO)
            with suppress(OSError):  # who has asked is gone
                os.write(kernel, struct.pack("=IiQ", 16 + len(body), status, unique) + body)
            if opcode == DESTROY:
                return

    def child(self, node: int, name: bytes) -> str:
        return os.path.join(self.paths[node], os.fsdecode(name.split(b"\0")[0]))

    def entry(self, path: str) -> bytes:
        found = attributes(os.lstat(path))
        if path not in self.nodes:
            self.last += 1
            self.nodes[path], self.paths[self.last] = self.last, path
        return struct.pack("=QQQQII", self.nodes[path], 0, STALE_S, STALE_S, 0, 0) + found

    def forget(self, path: str) -> None:
        self.nodes.pop(path, None)

    def init(self, node: int, body: bytes) -> bytes:
        _, _, readahead, flags = struct.unpack_from("=IIII", body)
        flags &= POSIX_LOCKS | BIG_WRITES | FLOCK_LOCKS
        return struct.pack("=IIIIHHIIHHI28x", 7, 31, readahead, flags, 12, 9, MAX_WRITE, 1, 32, 0, 0)

    def lookup(self, node: int, body: bytes) -> bytes:
        return self.entry(self.child(node, body))

    def getattr(self, node: int, body: bytes) -> bytes:
        flags, handle = struct.unpack_from("=I4xQ", body)
        return struct.pack("=QII", STALE_S, 0, 0) + attributes(
            os.fstat(handle) if flags & 1 else os.lstat(self.paths[node])
        )

    def setattr(self, node: int, body: bytes) -> bytes:
        valid, handle, size, _, atime, mtime, _, at_ns, m_ns, _, mode, _, uid, gid = struct.unpack_from(
            "=I4xQQQQQQIIIIIII", body
        )
        target: int | str = handle if valid & 64 else self.paths[node]
        if valid & 1:
            os.chmod(target, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(target, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(target, size)
        if valid & 0x1B0:
            now = os.stat(target)
            times = (
                now.st_atime_ns if not valid & 0x90 else atime * 10**9 + at_ns,
                now.st_mtime_ns if not valid & 0x120 else mtime * 10**9 + m_ns,
            )
            os.utime(target, None if valid & 0x180 else times if valid & 0x30 else None)
        return struct.pack("=QII", STALE_S, 0, 0) + attributes(os.stat(target))

    def readlink(self, node: int, body: bytes) -> bytes:
        return os.fsencode(os.readlink(self.paths[node]))

    def symlink(self, node: int, body: bytes) -> bytes:
        name, target = body.split(b"\0")[:2]
        os.symlink(os.fsdecode(target), path := self.child(node, name))
        return self.entry(path)

    def mkdir(self, node: int, body: bytes) -> bytes:
        mode, _ = struct.unpack_from("=II", body)
        os.mkdir(path := self.child(node, body[8:]), stat.S_IMODE(mode))
        return self.entry(path)

    def unlink(self, node: int, body: bytes) -> bytes:
        os.unlink(path := self.child(node, body))
        self.forget(path)
        return b""

    def rmdir(self, node: int, body: bytes) -> bytes:
        os.rmdir(path := self.child(node, body))
        self.forget(path)
        return b""

    def rename(self, node: int, body: bytes, skipped: int = 8) -> bytes:
        (into,) = struct.unpack_from("=Q", body)
        old, new = body[skipped:].split(b"\0")[:2]
        before, after = self.child(node, old), self.child(into, new)
        os.rename(before, after)
        self.forget(after)
        for path, number in [*self.nodes.items()]:
            if path == before or path.startswith(before + "/"):
                del self.nodes[path]
                self.paths[number] = after + path[len(before) :]
                self.nodes[self.paths[number]] = number
        return b""

    def rename2(self, node: int, body: bytes) -> bytes:
        return self.rename(node, body, 16)

    def open(self, node: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("=I", body)
        handle = os.open(self.paths[node], flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_APPEND))
        return struct.pack("=QII", handle, 0, 0)

    def create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("=II", body)
        path = self.child(node, body[16:])
        handle = os.open(path, (flags | os.O_CREAT) & ~os.O_APPEND, stat.S_IMODE(mode))
        return self.entry(path) + struct.pack("=QII", handle, 0, 0)

    def read(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("=QQI", body)
        return os.pread(handle, size, offset)

    def write(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("=QQI", body)
        return struct.pack("=II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def statfs(self, node: int, body: bytes) -> bytes:
        found = os.statvfs(self.paths[ROOT_NODE])
        sizes = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        return struct.pack("=QQQQQIIII24x", *sizes, found.f_bsize, found.f_namemax, found.f_frsize, 0)

    def release(self, node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("=Q", body)[0])
        return b""

    def fsync(self, node: int, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("=Q", body)[0])
        return b""

    def done(self, node: int, body: bytes) -> bytes:
        return b""

    def done16(self, node: int, body: bytes) -> bytes:
        return bytes(16)

    def no_lock(self, node: int, body: bytes) -> bytes:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        found = b""
        for at, each in enumerate(sorted(os.scandir(self.paths[node]), key=lambda each: each.name)):
            name = os.fsencode(each.name)
            kind = stat.S_IFMT(each.stat(follow_symlinks=False).st_mode) >> 12
            one = struct.pack("=QQII", each.inode(), at + 1, len(name), kind) + name
            one += bytes(-len(one) % 8)
            if at >= offset:
                if len(found) + len(one) > size:
                    break
                found += one
        return found


def attributes(found: os.stat_result) -> bytes:
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    return struct.pack(
        "=QQQQQQIIIIIIIIII",
        *(found.st_ino, found.st_size, found.st_blocks, *(each // 10**9 for each in times)),
        *(each % 10**9 for each in times),
        *(found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, found.st_blksize, 0),
    )


def main(backing: str, at: str) -> None:
    kernel = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={kernel},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    words = (b"far:/lab", os.fsencode(at), b"fuse.sshfs")
    if _libc.mount(*words, 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "the drive cannot be mounted")
    print("mounted", flush=True)
    Drive(backing).serve(kernel)


if __name__ == "__main__":
    main(*sys.argv[1:])
