"""The journal of a working folder on a network drive: kept on the manager's disk, copied back at its end.

`journal_place.json` in the folder says which host has the newest journal; a stamp that is there and beside
that journal ties them together. While a manager runs, it writes a pulse into the folder: no lock there tells
a manager of another host about it.
"""

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from distexp.errors import UserError
from distexp.system.files import PRIVATE, SMALL_BYTES, read_bytes, replace_durably
from distexp.system.network_drives import network_type
from distexp.system.process import host_name
from distexp.workdir import Workdir, write_private

PULSE_S = 5.0  # between two pulses, as between two rescans
SILENCE_S = 20.0  # of the pulse, after which a manager of another host is taken for dead
LOOK_S = 0.5  # between two looks at it
RENEW_S = 3600.0  # between two times that our files on this host are made to look new
DELETED = "{} was deleted or replaced while the manager ran; start it again"

log = logging.getLogger("distexp.manager")


class JournalPlace(msgspec.Struct, frozen=True):
    """Where the newest journal of a folder is."""

    host: str
    stamp: str
    path: str  # of the journal there
    is_back: bool  # the copy in the folder is as new


class NetworkFolder:
    """One working folder, if it is on a network drive; else nothing happens.  For one thread."""

    def __init__(self, workdir: Workdir, sleep: Callable[[float], None] = time.sleep) -> None:
        """`sleep` waits between two looks at the pulse of another manager."""
        self._workdir, self._sleep = workdir, sleep
        self._is_used = workdir.local != workdir.state
        self._stamp = ""  # of our journal, once it is the newest
        self._pulses = 0
        self._next_pulse_s = 0.0  # monotonic: when to write the next
        self._next_renewal_s = 0.0
        self.lost_to = ""  # why the folder is not this manager's any more

    # -- at the start --------------------------------------------------------------------------------------

    def take(self) -> None:
        """Bring the newest journal here that can be had. Caller holds the folder.

        Raises:
            AlreadyRunning: A manager of another host runs in the folder.
            UserError: The journal cannot be copied.
        """
        if not self._is_used:
            return
        place, self._stamp = place_of(self._workdir), stamp_here(self._workdir)
        if place is None or place.stamp != self._stamp:
            if place is not None and not place.is_back and not self._is_back_by_now(place):
                self._say_what_is_lost(place)
            self._stamp = secrets.token_hex(8)
            bring_copy(self._workdir, self._workdir.journal)
            write_private(stamp_file(self._workdir), self._stamp)
        self._write_place(is_back=False)
        log.info(
            "%s is on a network drive (%s): journal and locks are in %s until the manager ends",
            *(self._workdir.root, network_type(self._workdir.root), self._workdir.local),
        )
        self.write_pulse()

    def _is_back_by_now(self, place: JournalPlace) -> bool:
        """Return whether the journal has come back, once no manager has written a pulse for a while.

        What another host has written may take its time to be seen here.
        """
        log.info(
            "The last manager of this folder ran on %s and has not said that it ended; looking for %g s "
            "whether it runs",
            *(place.host, SILENCE_S),
        )
        if has_pulse(self._workdir, self._sleep):
            raise self._workdir.already_running(place.host)
        now = place_of(self._workdir)
        return now is not None and now.is_back

    def _say_what_is_lost(self, place: JournalPlace) -> None:
        try:
            at_s = self._workdir.journal_copy.stat().st_mtime
            copy = f"the copy of {time.strftime('%Y-%m-%d %H:%M', time.localtime(at_s))}"
        except OSError:
            copy = "an empty one"
        log.warning(
            "The newest journal of this folder is on %s (%s); starting with %s: attempts and leases since "
            "then are unknown, rows count",
            *(place.host, place.path, copy),
        )

    # -- while it runs, and at its end ---------------------------------------------------------------------

    def write_pulse(self) -> None:
        """Show managers of other hosts that this one runs, and see whether the folder is still its own."""
        if not self._is_used or time.monotonic() < self._next_pulse_s:
            return
        self._pulses += 1
        self._next_pulse_s = time.monotonic() + PULSE_S
        self._renew_local_files()
        try:
            self._workdir.pulse.write_text(f"{self._stamp} {self._pulses}\n", encoding="ascii")
            self._workdir.journal_place.lstat()
        except FileNotFoundError:
            if os.path.isdir(self._workdir.root):
                self.lost_to = DELETED.format(self._workdir.state)
        except OSError:
            pass  # a full disk, or a drive that is away
        else:
            if (place := place_of(self._workdir)) and place.stamp != self._stamp:
                self.lost_to = f"the manager of {place.host} has taken over {self._workdir.root}"

    def _renew_local_files(self) -> None:
        """Keep what cleans /var/tmp of old files from those that are used for months, and written once."""
        if time.monotonic() < self._next_renewal_s:
            return
        self._next_renewal_s = time.monotonic() + RENEW_S
        with contextlib.suppress(OSError):  # a folder that goes meanwhile, too many open files, ...
            for path in self._workdir.local.rglob("*"):
                with contextlib.suppress(OSError):  # a lock of a worker that has just left
                    os.utime(path)

    def give_back(self) -> None:
        """Copy the journal, which is closed, back into the folder, unless that is another's by now."""
        self._next_pulse_s = 0.0
        self.write_pulse()
        if not self._is_used or self.lost_to:
            return
        copy = self._workdir.journal_copy
        try:
            with contextlib.suppress(OSError):  # of an earlier version: SQLite would replay it into the copy
                log_of(copy).unlink()
            copy_durably(self._workdir.journal, copy)
            self._write_place(is_back=True)
        except UserError as error:
            log.warning("%s: managers on other hosts know nothing of this one's attempts", error)

    def _write_place(self, *, is_back: bool) -> None:
        place = JournalPlace(host_name(), self._stamp, str(self._workdir.journal), is_back)
        write_private(self._workdir.journal_place, msgspec.json.encode(place).decode())


def place_of(workdir: Workdir) -> JournalPlace | None:
    """Return where the newest journal of a folder is; None where no manager has said so."""
    try:
        return msgspec.json.decode(read_bytes(workdir.journal_place, SMALL_BYTES), type=JournalPlace)
    except (OSError, msgspec.MsgspecError):
        return None


def host_at_work(workdir: Workdir, sleep: Callable[[float], None] = time.sleep) -> str:
    """Return the other host whose manager runs in a folder on a network drive; empty: none shows that."""
    place = place_of(workdir)
    if workdir.local == workdir.state or place is None or place.is_back or place.stamp == stamp_here(workdir):
        return ""
    return place.host if has_pulse(workdir, sleep) else ""


def has_pulse(workdir: Workdir, sleep: Callable[[float], None]) -> bool:
    """Return whether a manager writes its pulse, and until then does not say that the journal is back."""
    before = _text(workdir.pulse)
    for _ in range(int(SILENCE_S / LOOK_S)):
        sleep(LOOK_S)
        now = place_of(workdir)
        if now is not None and now.is_back:
            return False
        if _text(workdir.pulse) != before:
            return True
    return False


def stamp_file(workdir: Workdir) -> Path:
    """Return the file that says which journal this host has."""
    return workdir.local / "stamp"


def stamp_here(workdir: Workdir) -> str:
    """Return the stamp of this host's journal; empty where it has none."""
    return _text(stamp_file(workdir))


def bring_copy(workdir: Workdir, journal: Path) -> None:
    """Put the journal that is in the folder in the place of a local one; without one, begin anew.

    One that an earlier version has left open in the folder comes with its log.

    Raises:
        UserError: It cannot be copied.
    """
    for source, target in ((log_of(workdir.journal_copy), log_of(journal)), (workdir.journal_copy, journal)):
        target.unlink(missing_ok=True)
        if os.path.exists(source):
            copy_durably(source, target)


def log_of(journal: Path) -> Path:
    """Return the file with what SQLite has yet to bring into a journal."""
    return journal.with_name(f"{journal.name}-wal")


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file of the manager's own, whole or not at all.

    Raises:
        UserError: It cannot be read or written; the target is as it was.
    """
    try:
        replace_durably(target, read_bytes(source), PRIVATE)
    except OSError as error:
        raise UserError(f"{source} cannot be copied to {target} ({error.strerror})") from None


def _text(path: Path) -> str:
    try:
        return read_bytes(path, SMALL_BYTES).decode("ascii", errors="replace").strip()
    except OSError:
        return ""
