"""Where the page gets its answers: from the manager, or while none runs from the files of its folder."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from distexp.errors import ManagerUnreachable, ProtocolError
from distexp.wire.client import Client
from distexp.wire.messages import AnyReply, AnyRequest

SLOW_S, RETRY_S = 0.5, 5.0  # a manager that takes so long not to answer is not asked again for so long

Reply = TypeVar("Reply", bound=AnyReply)


# Answers a request that only looks, from the files of a folder; raises the error where a manager holds it.
AtRest = Callable[[AnyRequest, ManagerUnreachable | ProtocolError], AnyReply]


class Source:
    """Answers requests.  Safe from any thread: one at a time."""

    def __init__(self, client: Client, at_rest: AtRest | None = None) -> None:
        """Ask nobody yet; without `at_rest` only the manager answers."""
        self._client, self._at_rest = client, at_rest
        self._lock = threading.Lock()
        self._problem = ""
        self._retry_at_s = 0.0

    @property
    def problem(self) -> str:
        """Why the manager does not answer; empty: it does."""
        return self._problem

    def look(self, request: AnyRequest, expected: type[Reply]) -> Reply:
        """Return the reply to a request that only looks: the manager's, or that of the folder's files.

        Raises:
            Refused, UnknownTask: There is no such task.
            DistexpError: Neither manager nor files answer.
        """
        with self._lock:
            try:
                return self._call(request, expected)
            except (ManagerUnreachable, ProtocolError) as error:
                if self._at_rest is None:
                    raise
                reply = self._at_rest(request, error)
            assert isinstance(reply, expected)
            return reply

    def order(self, request: AnyRequest, expected: type[Reply]) -> Reply:
        """Return the manager's reply to a request that changes something.

        Raises:
            Refused: The manager does not grant it.
            ManagerUnreachable: No manager answers.
        """
        with self._lock:
            self._retry_at_s = 0.0
            return self._call(request, expected)

    def _call(self, request: AnyRequest, expected: type[Reply]) -> Reply:
        if self._problem and time.monotonic() < self._retry_at_s:
            raise ManagerUnreachable(self._problem)
        began_s = time.monotonic()
        try:
            reply = self._client.call(request, expected)
        except (ManagerUnreachable, ProtocolError) as error:
            self._problem, now_s = str(error), time.monotonic()
            if now_s - began_s > SLOW_S:
                self._retry_at_s = now_s + RETRY_S
            raise
        self._problem = ""
        return reply

    def close(self) -> None:
        """Close the connection to the manager."""
        with self._lock:
            self._client.close()
