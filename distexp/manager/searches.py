"""Adaptive searches: chooses the next configurations, one ahead of need, from what the others have reached.

A configuration is in the journal before any of its tasks is assigned. Its choice depends only on the search's
seed, its number, and the results that there are, but for that of the configuration just before: with one
worker that one still runs, and a search that was killed then chooses as one that was not.
"""

import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from msgspec import structs

from distexp.errors import DistexpError, JournalUnwritable, SamplerFailed
from distexp.queue.journal import Journal
from distexp.queue.records import SuggestionRecord
from distexp.queue.task_queue import TaskQueue
from distexp.results.stops import step_of_stop
from distexp.results.store import ResultsStore
from distexp.search.history import grow_phase
from distexp.search.sampler import Begin, Trial
from distexp.search.sampler_process import SamplerProcess
from distexp.sweep.config import Phase
from distexp.sweep.distributions import uniform_again
from distexp.sweep.grid import Grid, GridPoint
from distexp.sweep.growing import Configuration, GrowingPhase
from distexp.sweep.space import MAX_WALKED, Choice, Config
from distexp.task import State
from distexp.text import count_text, number_in

ASKS = 9  # of Optuna for one configuration: the first time, and 8 more where it is there already
RANDOM_TRIES = 1_000  # for one that is new in a space that cannot be listed
DEATHS = 3  # of the sampler process over one configuration, which is then drawn at random
PAUSE_S = 1.0  # after something that may soon be different: a disk that is full, a process that died
MAX_GONE = 10_000  # choices of phases that no config has: these may come back, and must not pile up for ever

ENDED = frozenset([State.COMPLETE, State.PRUNED, State.FAILED, State.CANCELLED])
Ending = Sequence[tuple[State, int]]  # of each task of a configuration: its state, its attempts
Join = Callable[[Sequence[GridPoint], Mapping[Grid, int]], tuple[int, int]]  # tasks; by grid how many come

log = logging.getLogger("distexp.manager")


class Joined(NamedTuple):
    """What a sweep is made of now."""

    total: int  # tasks, with those to come
    new: int
    left: int


class _Search:
    """One adaptive phase.  The thread of `Searches` alone changes it."""

    def __init__(self, grown: GrowingPhase) -> None:
        assert grown.phase.search is not None and grown.phase.space is not None
        assert grown.phase.metric is not None
        self.grown, self.phase = grown, grown.phase
        self.search, self.space, self.metric = grown.phase.search, grown.phase.space, grown.phase.metric
        self.outcomes: dict[int, Trial] = {}  # of configurations that have ended, also if one runs again
        self.endings: dict[int, Ending] = {}  # of those, when the outcome was read
        self.newest = [point.key for point in grown.tasks()]  # among them all that were never assigned
        counts = [None if part.numbers else part.count for part in self.space.parts]
        self.begin = Begin(self.phase.name, counts, self.metric.goal == "maximize")
        self.is_exhausted = False
        self.deaths = 0  # of the sampler process over the next configuration

    @property
    def to_come(self) -> int:
        """How many tasks are yet to be chosen."""
        return 0 if self.is_exhausted else self.grown.to_come

    def say_size(self) -> None:
        """Say that there are fewer configurations than are asked for."""
        most = self.space.most
        if most is not None and most < self.search.samples:
            told = count_text(most, "configuration")
            log.warning(
                "Phase %s has %s, though `samples` asks for %d", self.phase.name, told, self.search.samples
            )

    def drawn(self, number: int, attempt: int) -> Config | None:
        """Return a configuration that chance alone chooses; None for one that is excluded."""
        seed, name, choices = self.search.seed, self.phase.name, list[Choice]()
        for at, part in enumerate(self.space.parts):
            place = uniform_again(seed, name, f"{at}", number, attempt)
            choices.append(place if part.numbers else int(place * (part.count or 1)))
        return self.space.configuration(choices)


class Searches:
    """The adaptive phases of a sweep, and the thread that chooses for them.  Safe from any thread."""

    def __init__(self, root: Path, queue: TaskQueue, store: ResultsStore, journal: Journal) -> None:
        """Choose nothing yet."""
        self._root, self._queue, self._store, self._journal = root, queue, store, journal
        self._on_new: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # before the queue's and the index's
        self._searches: list[_Search] = []
        self._phases: Sequence[Phase] = ()
        self._listed: Mapping[str, Sequence[GridPoint]] = {}  # by phase, the tasks of those that do not grow
        self._join: Join = lambda tasks, to_come: (0, 0)
        self._strays = 0  # as the store counted them when the histories were read
        self._suggestions: dict[tuple[str, int], SuggestionRecord] = {}
        self._sampler = SamplerProcess()
        self._useless: set[str] = set()  # phases of which it was said that a result holds no number
        self._trouble = ""  # what was said of the last choice that came to nothing
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # -- the sweep -----------------------------------------------------------------------------------------

    def recall(self, suggestions: Iterable[SuggestionRecord], phases: Iterable[Phase]) -> None:
        """Know what an earlier manager has chosen, for these phases or others.  Before the first `sync`."""
        known, names = [*suggestions], {phase.name for phase in phases}
        gone = [each for each in known if each.phase not in names]
        if len(gone) > MAX_GONE:
            known = [each for each in known if each.phase in names]
            for each in gone:
                self._journal.record(structs.replace(each, is_settled=True))
        self._suggestions = {(each.phase, each.number): each for each in known}

    def sync(self, phases: Sequence[Phase], tasks: Sequence[GridPoint], join: Join) -> Joined:
        """Take these phases as the sweep.

        Args:
            phases: Of the config files.
            tasks: Of those that are no adaptive searches.
            join: Called with all tasks that there are; returns how many are new, and how many have left.
                Nothing is chosen meanwhile.
        """
        with self._lock:
            if all(phase.space is None for phase in phases):  # a million tasks, perhaps
                self._searches = []
                return Joined(len(tasks), *join(tasks, {}))
            self._phases = phases
            self._listed = {phase: [*group] for phase, group in itertools.groupby(tasks, lambda t: t.phase)}
            joined = self._take(self._read(), join)
            for search in self._searches:
                search.say_size()
            return joined

    def take_up_rows(self) -> None:
        """Let configurations join that rows of other programs hold, as far as they were read.

        Only while there is something to choose: a search that has all its samples is not begun again.
        """
        with self._lock:
            is_choosing = any(each.to_come for each in self._searches)
            if not is_choosing or self._store.strays() == self._strays:
                return
            before, found = self._searches, self._read()
            new = [self._count_new(*pair) for pair in zip(before, found, strict=True)]
            if any(new):
                self._take(found, self._join)
        for search, count in zip(found, new, strict=True):
            if count:
                told = count_text(count, "configuration")
                log.info("Phase %s takes up %s that another program has run", search.phase.name, told)
        if any(new):
            self._on_new()

    def _count_new(self, before: _Search, after: _Search) -> int:
        """Return how many configurations there are more, without one that is being chosen just now."""
        name = after.phase.name
        chosen = [each.config for each in self._suggestions.values() if each.phase == name]
        known = after.grown.known.values()
        new = [each.config for each in known if not before.grown.knows(each.config)]
        return sum(config not in chosen for config in new)

    def _read(self) -> list[_Search]:
        """Return the searches with the history that rows and journal hold now.  Caller holds the lock."""
        self._strays = self._store.strays()  # one that comes meanwhile is looked for again
        phases = [phase for phase in self._phases if phase.space is not None]
        return [_Search(grow_phase(each, self._root, self._suggestions.values())) for each in phases]

    def _take(self, searches: list[_Search], join: Join) -> Joined:
        """Make these the adaptive phases, and theirs the tasks of the sweep.  Caller holds the lock."""
        self._searches = searches
        by_phase = {**self._listed, **{each.phase.name: each.grown.tasks() for each in searches}}
        tasks = [task for phase in self._phases for task in by_phase.get(phase.name, ())]
        to_come = {each.grown.grid: each.to_come for each in searches}
        return Joined(len(tasks) + sum(to_come.values()), *join(tasks, to_come))

    # -- life ----------------------------------------------------------------------------------------------

    def start(self, on_new: Callable[[], None], join: Join) -> None:
        """Begin to choose, where there is something to choose.

        Args:
            on_new: Called after each that joined.
            join: As that of `sync`, for when the rows of other programs are taken up.
        """
        self._on_new, self._join = on_new, join
        if self._thread is None and self._searches and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="searches", daemon=True)
            self._thread.start()
        self.look()

    def look(self) -> None:
        """Let it be seen whether another configuration is needed: a task was assigned, or has ended."""
        self._wake.set()

    def close(self) -> None:
        """Choose no more."""
        self._closed.set()
        self._sampler.close()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while not self._closed.is_set() and self.run_once():
                    pass
            except Exception:  # whatever one choice breaks, the next task that ends tries again
                log.exception("adaptive search: a choice was broken off")
                self._closed.wait(PAUSE_S)

    def run_once(self) -> bool:
        """Choose a configuration for each phase that has none ahead; return whether there was one."""
        self.take_up_rows()
        with self._lock:
            wanting = [each for each in self._searches if each.to_come and not self._has_ahead(each)]
        for each in wanting:
            try:
                self._choose(each)
                self._trouble = ""
            except DistexpError as error:
                self._say_trouble(error)
                self._closed.wait(PAUSE_S)
        return bool(wanting)

    def _say_trouble(self, error: DistexpError) -> None:
        """Say once why there is no configuration now; the journal speaks for itself."""
        is_told = isinstance(error, JournalUnwritable) or self._trouble == str(error)
        if not is_told and not self._closed.is_set():
            self._trouble = str(error)
            log.warning("%s; the next configuration comes later", error)

    def _say_useless(self, search: _Search, task_id: str) -> None:
        """Say once of a phase that a result holds no value to go by."""
        name, metric = search.phase.name, search.metric.name
        if name not in self._useless:
            self._useless.add(name)
            log.warning(
                "The search learns nothing from task %s: its row holds no number `%s`", task_id, metric
            )

    def _has_ahead(self, search: _Search) -> bool:
        search.newest = self._queue.queries.fresh(search.newest)
        return bool(search.newest)

    # -- choosing ------------------------------------------------------------------------------------------

    def _choose(self, search: _Search) -> None:
        """Let the next configuration join, or find that there is none.

        Raises:
            JournalUnwritable: It is not durable, and has not joined.
        """
        number = search.grown.next_number()
        config = self._new(search, number)
        if config is None:
            self._end(search)
            return
        record = SuggestionRecord(phase=search.phase.name, number=number, config=config)
        with self._lock:
            if search not in self._searches:  # the configs have changed meanwhile
                return
            self._suggestions[record.phase, number] = record
            self._journal.record(record)
        self._journal.flush()
        with self._lock:
            if search not in self._searches:
                return
            points = search.grown.add(config, number)
            search.newest = [point.key for point in points]
            search.deaths = min(search.deaths, DEATHS - 1)  # one that never works is tried once each
            self._store.grow(points)
            if self._store.strays() == self._strays:
                self._queue.grow(search.phase.name, points, search.to_come)
            else:  # rows of it may have been read just before
                self._store.reset()
                self._take(self._read(), self._join)
        self._on_new()

    def _end(self, search: _Search) -> None:
        with self._lock:
            search.is_exhausted = True
            if search in self._searches:
                self._queue.grow(search.phase.name, [], 0)
        known = count_text(len(search.grown.known), "configuration")
        log.warning(
            "Phase %s ends with %s: no other was found, though `samples` asks for %d",
            *(search.phase.name, known, search.search.samples),
        )
        self._on_new()

    def _new(self, search: _Search, number: int) -> Config | None:
        """Return a configuration that is not there yet; None where there is none."""
        if (found := self._suggested(search, number)) is not None:
            return found
        for attempt in range(1, RANDOM_TRIES):
            drawn = search.drawn(number, attempt)
            if drawn is not None and not search.grown.knows(drawn):
                return drawn
        size = search.space.size
        if size is None or size > MAX_WALKED:
            return None
        start = uniform_again(search.search.seed, search.phase.name, "", number, 0)
        return next((each for each in search.space.walk(start) if not search.grown.knows(each)), None)

    def _suggested(self, search: _Search, number: int) -> Config | None:
        """Return what Optuna suggests; None where that is there already, however often it is asked."""
        if search.deaths >= DEATHS:
            return None
        trials = list(self._history(search, number))
        for attempt in range(ASKS):
            try:
                places = self._sampler.ask(search.begin, trials, _seed(search, number, attempt))
            except SamplerFailed:
                search.deaths += 1
                if search.deaths == DEATHS:
                    log.warning("Phase %s: configuration %d is drawn at random", search.phase.name, number)
                raise
            search.deaths = 0
            config = search.space.configuration(places)
            if config is not None and not search.grown.knows(config):
                return config
        return None

    # -- the history ---------------------------------------------------------------------------------------

    def _history(self, search: _Search, number: int) -> Iterator[Trial]:
        """Yield what the configurations before this one have come to, without the last."""
        known = search.grown.known
        endings = {at: self._ending(each) for at, each in known.items()}
        new = {at: each for at, each in endings.items() if each and search.endings.get(at) != each}
        rows = self._store.find([point for at in new for point in known[at].points])
        for at in new:
            outcome = self._outcome(search, at, known[at], rows)
            if outcome is not None:
                search.outcomes[at] = outcome
        search.endings |= new
        return (trial for at, trial in sorted(search.outcomes.items()) if at != number - 1)

    def _ending(self, configuration: Configuration) -> Ending | None:
        """Return in which state each task has ended, after how many attempts; None while one has not."""
        ending = self._queue.queries.progress([point.key for point in configuration.points])
        return ending if ENDED.issuperset(state for state, _ in ending) else None

    def _outcome(
        self,
        search: _Search,
        number: int,
        configuration: Configuration,
        rows: Mapping[str, Mapping[str, str]],
    ) -> Trial | None:
        choices = search.space.choices_of(configuration.config)
        if choices is None:
            return None
        cells = [rows.get(point.key, {}) for point in configuration.points]
        values = [number_in(row.get(search.metric.name, "")) for row in cells]
        stops = [stop for row in cells if (stop := step_of_stop(row)) is not None]
        finite = [value for value in values if value is not None]
        value = fmean(finite) if len(finite) == len(values) else None
        if value is None and rows.keys() >= {point.key for point in configuration.points}:
            self._say_useless(search, configuration.points[values.index(None)].task_id)
        return Trial(search.phase.name, number, choices, value, min(stops, default=None))


def _seed(search: _Search, number: int, attempt: int) -> int:
    text = f"{search.search.seed}\0{search.phase.name}\0{number}\0{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
