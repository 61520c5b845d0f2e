"""How many tasks are in each state, in all and by phase.  Caller holds the queue's lock."""

from collections import Counter
from collections.abc import Mapping

from distexp.task import State


class StateCounts:
    """Numbers that are kept up to date, so that asking for them costs the same in a sweep of any size."""

    def __init__(self) -> None:
        self._all: Counter[State] = Counter()
        self._of_phase: dict[str, Counter[State]] = {}
        self.changes = 0  # how often a number was another one
        self.to_come: Mapping[str, int] = {}  # phase -> tasks that its search has yet to choose

    def __getitem__(self, state: State) -> int:
        return self._all[state]

    def add_each(self, tasks: Mapping[str, int], state: State) -> None:
        """Count so many tasks of each phase more in a state."""
        for phase, number in tasks.items():
            self._add(phase, state, number)

    def move_each(self, tasks: Mapping[str, int], was: State, state: State) -> None:
        """Count so many tasks of each phase in another state."""
        for phase, number in tasks.items():
            self._add(phase, was, -number)
            self._add(phase, state, number)

    def move(self, phase: str, was: State, state: State) -> None:
        """Count a task in another state."""
        self._add(phase, was, -1)
        self._add(phase, state, 1)

    def _add(self, phase: str, state: State, number: int) -> None:
        self.changes += 1
        self._all[state] += number
        self._of_phase.setdefault(phase, Counter())[state] += number

    def coming(self) -> set[str]:
        """Return the phases of which tasks are to come."""
        return {phase for phase, number in self.to_come.items() if number}

    def left(self) -> set[str]:
        """Return the phases of which a task is pending, assigned or to come."""
        states = (State.PENDING, State.ASSIGNED)
        return self.coming().union(p for p, counts in self._of_phase.items() if any(map(counts.get, states)))

    def are_over(self) -> bool:
        """Return whether no task is pending, assigned or to come."""
        return not (self._all[State.PENDING] or self._all[State.ASSIGNED] or self.coming())

    def in_all(self) -> dict[State, int]:
        """Return a copy of the numbers; tasks that are to come count as pending."""
        return {state: self._all[state] for state in State} | {
            State.PENDING: self._all[State.PENDING] + sum(self.to_come.values())
        }

    def by_phase(self) -> Mapping[str, Mapping[State, int]]:
        """Return a copy of the numbers of each phase, the phases in the order of the sweep."""
        found = {phase: Counter(counts) for phase, counts in self._of_phase.items()}
        for phase, number in self.to_come.items():
            found.setdefault(phase, Counter())[State.PENDING] += number
        return found
