"""The worker's connection to its manager: requests, retries while it is away, and when to send heartbeats."""

import logging
import random
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from distexp.errors import ManagerUnreachable, ProtocolError
from distexp.wire.client import REPLY_S, Client
from distexp.wire.messages import Ack, AnyRequest, NoTask, RequestTask, TaskComplete, TaskFailed, TaskReleased
from distexp.worker.signals import StopRequests

HEARTBEAT_S = 15.0
NEWS_S = 3.0  # between two requests, when the second has news
RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0  # between two tries to reach the manager

log = logging.getLogger("distexp.worker")


class ManagerConnection:
    """Requests to one manager that may come and go.  For one thread."""

    def __init__(
        self, client: Client, stop: StopRequests, clock: Callable[[], float], manager_wait_s: float
    ) -> None:
        """Give up once the manager has stayed away for `manager_wait_s`."""
        self._client, self._stop, self._clock = client, stop, clock
        self.manager_wait_s = manager_wait_s
        self._away_since_s: float | None = None  # since when nobody answers
        self._retry_s = RETRY_MIN_S
        self.refusal = ""  # why the manager refused the last request for good; empty: it did not
        self._requested_s = 0.0
        self.next_heartbeat_s = 0.0  # when the manager has to hear from this worker again
        self.has_given_up = False
        self.exit_code = 0  # of a worker that has given up
        self._known_end = client.last_end()  # before this worker began: no clocks of two hosts are compared

    def request(self, request: AnyRequest, expected: Any) -> Any:
        """Return the reply to one request.

        Raises:
            ManagerUnreachable: No manager answers, or it cannot do this now.
            ProtocolError: It refuses, or there is no token for it.
            UserError: The host is no name.
        """
        self._requested_s = self._clock()
        # also when it is refused: asking faster helps nobody
        self.next_heartbeat_s = self._requested_s + HEARTBEAT_S
        if isinstance(request, RequestTask) and request.wait_s:
            reply = self._await_task(request, expected)
        else:
            reply = self._client.call(request, expected)
        if self._away_since_s is not None:
            log.info("The manager at %s is back", self._client.address)
        self._away_since_s, self._retry_s = None, RETRY_MIN_S
        return reply

    def _await_task(self, request: RequestTask, expected: Any) -> Any:
        """Return the reply to a request that waits at the manager; no task when the user wants to leave."""
        self._client.begin(request)
        give_up_at_s = self._clock() + request.wait_s + REPLY_S
        while (reply := self._client.poll(expected)) is None:
            if self._stop.wants_leave:
                self._client.close()  # a task that is on its way goes to another worker, free
                return NoTask(reason="wait", retry_after_s=0)
            if self._clock() >= give_up_at_s:
                self._client.close()
                raise ManagerUnreachable(
                    f"the manager at {self._client.address} does not answer; it may be stopped or overloaded"
                )
            self._wait_for([self._client.socket], give_up_at_s - self._clock())
        return reply

    def try_request(self, request: AnyRequest, expected: Any, what: str) -> Any:
        """Return the reply; None when the manager refuses or, after a wait, does not answer."""
        self.refusal = ""
        try:
            return self.request(request, expected)
        except ProtocolError as error:
            log.error("%s: %s", what, error)
            self.refusal = str(error)
            if isinstance(request, RequestTask):
                self._give_up(1)
            return None
        except ManagerUnreachable as error:
            self._note_absence(f"{what}: {error}")
        if not self.has_given_up:
            self.wait(self.back_off_s())
        return None

    def _note_absence(self, problem: str) -> None:
        now_s = self._clock()
        if self._known_end is not None and self._client.last_end() not in (None, "", self._known_end):
            log.info("No task is left that can run: the manager has ended since this worker started")
            self._give_up(0)
        elif self._away_since_s is None:
            self._away_since_s = now_s
            log.warning("%s. Trying again for %g s", problem, self.manager_wait_s)
        elif now_s - self._away_since_s > self.manager_wait_s:
            log.error("%s. Giving up after %g s", problem, self.manager_wait_s)
            self._give_up(1)

    def _give_up(self, exit_code: int) -> None:
        self.has_given_up, self.exit_code = True, exit_code

    def report(self, report: TaskComplete | TaskFailed | TaskReleased, kept: str = "") -> Ack | None:
        """Tell the manager, as often as it takes; None when it refuses (`refusal`) or stays away too long.

        The first Ctrl+C ends the wait where nothing gets lost: where `kept` says what becomes of the report.
        """
        is_told = False
        while not self.has_given_up:
            ack: Ack | None = self.try_request(report, Ack, "Error reporting task")
            if ack is not None:
                return ack
            if self.refusal or self._stop.wants_checkpoint:
                break
            if self._stop.wants_leave and kept:
                log.info("Leaving without the manager. Task %s: %s", report.task_id, kept)
                break
            if self._stop.wants_leave and not is_told:
                is_told = True
                log.info("Waiting for the manager to take the result; Ctrl+C again leaves")
        return None

    def heartbeat_soon(self) -> None:
        """Send the next heartbeat earlier: there is news."""
        self.next_heartbeat_s = min(self.next_heartbeat_s, self._requested_s + NEWS_S)

    def retry_heartbeat_soon(self) -> None:
        """Send the next heartbeat as soon as it makes sense to try again."""
        self.next_heartbeat_s = self._clock() + self.back_off_s()

    def back_off_s(self) -> float:
        """Return how long to wait before the next try: longer each time, never in step with other workers."""
        wait_s = self._retry_s * random.uniform(0.5, 1.0)
        self._retry_s = min(RETRY_MAX_S, 2 * self._retry_s)
        return wait_s

    def wait(self, timeout_s: float, more: Sequence[Connection | int] = ()) -> None:
        """Return when manager, user or `more` have news; at the latest after `timeout_s`."""
        connection = self._client.socket
        ready = self._wait_for([*more, *([connection] if connection else [])], timeout_s)
        if self._stop.waitable in ready and self._stop.interrupts == 1 and more:
            log.info("Finishing the current task; Ctrl+C again to stop with a checkpoint")
        if connection is not None and connection in ready:  # between two requests this only means: closed
            self._client.close()
            self.next_heartbeat_s = self._clock()

    def _wait_for(self, some: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return which of these, or of the user's requests to stop, have news; those are acknowledged."""
        try:
            ready = wait([*some, self._stop.waitable], timeout_s)
        except InterruptedError:  # Windows, by Ctrl+C
            return []
        if self._stop.waitable in ready:
            self._stop.acknowledge()
        return ready

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
