"""Which phases come first: the priority that a config states, or one that somebody asked for since."""

import threading
from collections.abc import Callable, Iterable, Mapping

from distexp.errors import UnknownTask
from distexp.queue.records import PhaseRecord
from distexp.task import MAX_PRIORITY

SHOWN = 10  # phases in a message


class Priorities:
    """The priority of each phase; tasks of phases with a higher one come first.  Safe from any thread."""

    def __init__(self, on_change: Callable[[PhaseRecord], None] = lambda record: None) -> None:
        """Call `on_change` with every priority that is asked for, in that order."""
        self._on_change = on_change
        self._lock = threading.Lock()
        self._stated: Mapping[str, int] = {}  # by the configs
        self._asked: dict[str, PhaseRecord] = {}

    def sync(self, stated: Mapping[str, int]) -> None:
        """Take the priorities that the configs state now; an edited one wins over what was asked for."""
        with self._lock:
            self._stated = stated
            self._asked = {phase: each for phase, each in self._asked.items() if self._holds(each)}

    def restore(self, records: Iterable[PhaseRecord]) -> None:
        """Take over what an earlier manager was asked for, unless the configs were edited since."""
        with self._lock:
            self._asked = {each.phase: each for each in records if self._holds(each)}

    def _holds(self, asked: PhaseRecord) -> bool:
        return self._stated.get(asked.phase) == asked.stated

    def of(self, phase: str) -> int:
        """Return the priority of a phase."""
        asked = self._asked.get(phase)
        return self._stated.get(phase, 0) if asked is None else asked.priority

    def ask(self, phase: str, priority: int | None) -> str:
        """Give a phase this priority, or one above all others; return the order of the phases as text.

        Raises:
            UnknownTask: There is no such phase.
        """
        with self._lock:
            if phase not in self._stated:
                raise UnknownTask(f"no phase is called {phase!r}: there are {', '.join(self._stated)}")
            if priority is None:
                highest = max((self.of(each) for each in self._stated if each != phase), default=-1)
                priority = max(min(highest + 1, MAX_PRIORITY), self.of(phase))
            record = PhaseRecord(phase=phase, priority=priority, stated=self._stated[phase])
            self._asked[phase] = record
            self._on_change(record)
            return self._order()

    def _order(self) -> str:
        names = sorted(self._stated, key=self.of, reverse=True)
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{', '.join(f'{name} ({self.of(name)})' for name in names[:SHOWN])}{more}"
