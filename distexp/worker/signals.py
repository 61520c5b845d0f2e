"""Stop requests to a worker (Ctrl+C, SIGTERM, Slurm's warning, another user), as flags that wake it."""

import contextlib
import signal
import socket
from types import FrameType

PREEMPTION_SIGNALS = ("SIGTERM", "SIGHUP", "SIGUSR2")  # Slurm's warning is USR2: NCCL catches USR1
END_SIGNALS = ("SIGTERM", "SIGHUP")  # no warning any more
INTERRUPT_SIGNALS = ("SIGINT", "SIGBREAK")  # SIGBREAK: Windows, for processes of another group


class StopRequests:
    """How often the user pressed Ctrl+C, and whether the machine is about to be taken away."""

    def __init__(self) -> None:
        self.interrupts = 0  # 1: finish the task, 2: checkpoint and stop, 3: kill
        self.is_preempted = False
        self.is_ended = False  # by SIGTERM or SIGHUP: nobody may want this worker back
        self.yields_to = ""  # who computes on a GPU of it, which it therefore gives back: "ann on gpu0"
        self._is_installed = False
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def install(self) -> None:
        """Become the handler of the stop signals. For the main thread."""
        for name in INTERRUPT_SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self.interrupt)
        for name in PREEMPTION_SIGNALS:
            number = getattr(signal, name, None)
            is_nohup = name == "SIGHUP" and number and signal.getsignal(number) is signal.SIG_IGN
            if number and not is_nohup:  # started by nohup: a closed terminal changes nothing
                signal.signal(number, self.preempt)
        # on Windows a handler runs only after the wait that it is to end
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._is_installed = True

    def interrupt(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Count one Ctrl+C."""
        self.interrupts += 1
        self._wake()

    def preempt(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Note that this process has to end soon."""
        self.is_preempted = True
        self.is_ended = self.is_ended or number in {getattr(signal, name, None) for name in END_SIGNALS}
        self._wake()

    def give_way(self, seen: str) -> None:
        """Note that a GPU has to be given back now. From any thread."""
        self.yields_to = seen
        self._wake()

    @property
    def wants_leave(self) -> bool:
        """Whether no new task may be taken."""
        return self.is_preempted or self.interrupts > 0 or bool(self.yields_to)

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the current task is to save its checkpoint and stop."""
        return self.is_preempted or self.interrupts > 1 or bool(self.yields_to)

    @property
    def wants_kill(self) -> bool:
        """Whether the current task is to end at once."""
        return self.interrupts > 2

    @property
    def is_warned(self) -> bool:
        """Whether all that came is the warning before the end of a job."""
        return self.is_preempted and not self.is_ended and not self.interrupts

    @property
    def waitable(self) -> socket.socket:
        """Readable after a new request, until `acknowledge`."""
        return self._ours

    def acknowledge(self) -> None:
        """Make `waitable` unreadable again."""
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(64):
                pass

    def close(self) -> None:
        """Give back what `waitable` is made of. Requests are counted on."""
        if self._is_installed:
            signal.set_wakeup_fd(-1)
        self._ours.close()
        self._theirs.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is readable already, or closed
            self._theirs.send(b"!")
