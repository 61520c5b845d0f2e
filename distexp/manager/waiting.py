"""Workers that wait at the manager for a task: each is answered as soon as there is one for it.

They stand in a line by the time since which they have nothing to do. One thread tries for all of them
whenever something has changed (`look`), so a thousand that wait cost nothing while nothing does.
"""

import contextlib
import itertools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from distexp.errors import DistexpError
from distexp.manager.workers import Worker
from distexp.wire.messages import MAX_WAIT_S, NoTask, TaskReply

HEARS_NEW = hasattr(selectors, "EpollSelector") or hasattr(selectors, "KqueueSelector")  # not on Windows
MAX_HEARD = 500  # connections that `select` takes, on Windows; of the others, who left is seen when answered
PAUSE_S = 1.0  # after a turn that broke off: it may break again at once
AT_ONCE = 16  # workers that share a commit of the journal

log = logging.getLogger("distexp.manager")

Assignment = TaskReply | NoTask


@dataclass(eq=False)
class _WaitingRequest:
    """One request that waits."""

    worker: Worker
    descriptor: int  # of its connection; readable while it waits: the peer has left, or wants something else
    first: NoTask  # what it would have been told at once
    since_s: float  # since when its worker has nothing to do; monotonic
    answer: Assignment | None = None
    is_answered: threading.Event = field(default_factory=threading.Event)

    def kind(self, closed: object) -> tuple[object, ...]:
        """Equal for workers of which one gets a task only if any of them does.

        `closed` tells of which phases this one gets none, and why.
        """
        worker, info = self.worker, self.worker.info
        gpu = info.shared_gpu or info.free_mib
        version = info.earlier and info.earlier.text
        return (info.memory_mib, info.gpus, gpu, info.device, worker.excluded, version, closed)


class WaitingWorkers:
    """The line of requests that wait, and the thread that answers them.  Safe from any thread."""

    def __init__(
        self,
        assign: Callable[[Sequence[Worker]], list[Assignment]],
        closed_to: Callable[[Worker], object],
    ) -> None:
        """Nobody waits yet.

        Args:
            assign: Returns a task for each worker, or why it gets none.
            closed_to: Returns, to be compared, of which phases a worker gets no task now, though others may.
        """
        self._assign, self._closed_to = assign, closed_to
        self._lock = threading.Lock()
        self._requests: dict[int, _WaitingRequest] = {}  # by descriptor
        self.changes = 0  # how often `look` was called
        self._is_closed = self._must_try = False
        self._trying = threading.Lock()  # held while tasks are assigned to some that wait
        self._thread: threading.Thread | None = None  # there once the first request waits

    def _start(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)
        self._thread.start()

    def wait(self, worker: Worker, descriptor: int, first: NoTask, known: int, wait_s: float) -> Assignment:
        """Return a task, or why there is none, once that is another than `first`, or `wait_s` have passed.

        Args:
            worker: Who asks.
            descriptor: Of its connection.
            first: Its answer at a time when `changes` was `known`.
            known: See `first`.
            wait_s: Seconds, at most `MAX_WAIT_S`.
        """
        since_s = time.monotonic()
        if worker.instance:  # it keeps its place; of clients without one, several may have one name
            since_s = worker.waits_since_s = worker.waits_since_s or since_s
        request = _WaitingRequest(worker, descriptor, first, since_s)
        with self._lock:
            if self._is_closed:
                return first
            if self._thread is None:
                self._start()
            if HEARS_NEW or len(self._requests) < MAX_HEARD:
                self._selector.register(descriptor, selectors.EVENT_READ, request)
            self._requests[descriptor] = request
            self._must_try |= self.changes != known
        if self._must_try or not HEARS_NEW:  # there the thread hears a connection from its next look on
            self._signal()
        if not request.is_answered.wait(min(wait_s, MAX_WAIT_S)):
            with self._trying:  # perhaps it is being answered just now
                self._leave(request)
        if isinstance(request.answer, TaskReply):
            worker.waits_since_s = None
        return request.answer or msgspec.structs.replace(first, retry_after_s=0.0)

    def look(self) -> None:
        """Let all that wait be tried again: a task may be free, or have ended, or the sweep."""
        with self._lock:
            self.changes += 1
            self._must_try = bool(self._requests)
        if self._must_try:
            self._signal()

    def close(self) -> None:
        """Answer all that wait, and keep nobody waiting from now on."""
        with self._lock:
            self._is_closed = True
        if self._thread is None:
            return
        self._signal()
        self._thread.join()
        self._thread = None
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _signal(self) -> None:
        with contextlib.suppress(
            BlockingIOError, OSError
        ):  # enough signals stand there already, or it is closed
            self._wake.send(b"x")

    def _leave(self, request: _WaitingRequest) -> None:
        """Take a request out of the line, unless that was done already; an answer that is given stands."""
        with self._lock:
            if self._requests.get(request.descriptor) is request:
                del self._requests[request.descriptor]
                with contextlib.suppress(KeyError):  # there were too many
                    self._selector.unregister(request.descriptor)

    def _answer(self, request: _WaitingRequest, answer: Assignment | None) -> None:
        self._leave(request)
        request.answer = answer
        request.is_answered.set()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                self._turn()
            except Exception:  # whatever one turn breaks, the next serves on; our bug stands in the log
                log.exception("waiting workers: a turn was broken off")
                time.sleep(PAUSE_S)
        try:
            self._try_all()  # they hear why
        except Exception:  # what one answer breaks, the others below still get theirs; our bug is in the log
            log.exception("waiting workers: they were not told that the manager stops")
        for request in list(self._requests.values()):
            self._answer(request, None)

    def _turn(self) -> None:
        self._hear()
        with self._lock:
            must_try, self._must_try = self._must_try, False
        if must_try:
            self._try_all()

    def _hear(self) -> None:
        """Wait for a signal, or for news from a connection that waits: it is answered, and so read."""
        try:
            ready = self._selector.select()
        except OSError:  # Windows: one was closed meanwhile
            return
        for key, _ in ready:
            if isinstance(key.data, _WaitingRequest):
                self._answer(key.data, key.data.first)  # which says when to ask again, not at once
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _try_all(self) -> None:
        """Try for those that wait, the longest-waiting first; of a kind that gets nothing, not for all."""
        with self._trying:
            self._try_line()

    def _try_line(self) -> None:
        with self._lock:
            line = sorted(self._requests.values(), key=lambda each: each.since_s)
        hopeless = set[object]()
        left = (each for each in line if each.worker.drained or self._kind(each) not in hopeless)
        while some := list(itertools.islice(left, AT_ONCE)):
            try:
                answers = self._assign([each.worker for each in some])
            except DistexpError as error:  # the journal cannot be written now; the next change tries again
                log.warning("%s", error)
                return
            for request, answer in zip(some, answers, strict=True):
                if _is_news(answer, request.first):
                    self._answer(request, answer)
                elif not request.worker.drained:
                    hopeless.add(self._kind(request))

    def _kind(self, request: _WaitingRequest) -> object:
        return request.kind(self._closed_to(request.worker))


def _is_news(answer: Assignment, first: NoTask) -> bool:
    return isinstance(answer, TaskReply) or _meaning(answer) != _meaning(first)


def _meaning(answer: NoTask) -> tuple[str, str, bool]:
    return answer.reason, answer.message, answer.cannot_run
