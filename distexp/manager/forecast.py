"""Forecasts how fast the sweep goes and when it will be done, and keeps the last causes of failure.

The model is a mean, times a factor for each value of a phase's axes; a number that was not seen yet follows
the trend of those that were. It costs the same whatever the size of the sweep: of the measured and of the
pending tasks a sample is kept.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, linear_regression, median

from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import Lease
from distexp.queue.task_queue import TaskQueue
from distexp.task import State, Task, Value, canonical
from distexp.text import utc_text, without_numbers
from distexp.wire.messages import FailureStatus

KEPT = 400  # measured tasks that the model is made of
SAMPLE = 400  # pending tasks that stand for all
RESAMPLE_BELOW = 100  # of the sample still pending: then another is drawn, if more are pending in all
OVERRUN = 1.25  # what runs for longer than expected will take so many times what it has taken
FORECAST_S = 5.0  # between two forecasts: one takes some 10 ms
MIN_SHARE, MIN_TOLD_S = 0.02, 10.0  # of a running task, before its progress outweighs what its start took
MEDIAN_OF = 25  # tasks of a phase that were completed last
RATE_TASKS = 100  # completed last, whose rate is shown
FAILURES = 8  # causes, kept: so many lines are read
ROUNDS = 4  # of fitting; factors of a crossed grid are exact after one, others settle by then
ENOUGH_TASKS, ENOUGH_SHARE = 20, 0.05  # done, of what there was to do, before an ETA means something
TOO_EARLY = "too early to tell"
HANG_S, HANG_TIMES = 30.0, 3.0  # what runs for longer than both, its like having taken less, may never end
HANGS = "what still runs takes much longer than its like"
HELD = "what is left is held"
MAX_TREND = 16.0  # by how much a value that nobody has seen may differ from those seen, whatever their trend

Features = Mapping[str, Value]  # name of a parameter, or "" for the phase -> value, as something to look up


@dataclass(frozen=True)
class Forecast:
    """How fast, and how long still."""

    per_hour: float | None  # completed tasks; None: too few to tell
    eta_s: float | None
    why_no_eta: str = ""


class Forecaster:
    """What has happened, and what it says about what is to come.  Safe from any thread."""

    def __init__(self, queue: TaskQueue, registry: WorkerRegistry) -> None:
        self._queue, self._registry = queue, registry
        self._lock = threading.Lock()
        self._measured: list[tuple[Features, float]] = []
        self._met = 0  # measured tasks, kept or not
        self._random = random.Random(0)
        self._done_s: deque[float] = deque(maxlen=RATE_TASKS)  # when each was completed, on its clock
        self._took_s: dict[str, deque[float]] = {}  # phase -> seconds, of those completed last
        self._median_s: dict[str, float] = {}  # of those: each of a thousand workers that wait is asked about
        self._failures: dict[str, FailureStatus] = {}  # cause without its numbers -> its latest
        self._sample: dict[str, tuple[Task, Features]] = {}
        self._without = frozenset[str]()  # held phases, of which there is none in the sample
        self._last, self._stale_at_s = Forecast(None, None), 0.0
        self._usual: Model | None = None  # of what was measured, without what runs for longer than its like

    # -- what happens --------------------------------------------------------------------------------------

    def completed(self, lease: Lease) -> None:
        """Note that the task of this lease is complete."""
        now_s = self._queue.now_s()
        with self._lock:
            self._done_s.append(now_s)
            if lease.since_s is not None:
                self._keep(lease.task, now_s - lease.since_s)
                took_s = self._took_s.setdefault(lease.task.phase, deque(maxlen=MEDIAN_OF))
                took_s.append(now_s - lease.since_s)
                self._median_s[lease.task.phase] = median(took_s)

    def _keep(self, task: Task, seconds: float) -> None:
        """Keep a fair sample of all that was measured (algorithm R, Vitter 1985)."""
        self._met += 1
        if len(self._measured) < KEPT:
            self._measured.append((features_of(task), seconds))
        elif (place := self._random.randrange(self._met)) < KEPT:
            self._measured[place] = (features_of(task), seconds)

    def failed(self, task: Task, worker: str, why: str, state: State) -> None:
        """Note a failure, or the loss of a worker."""
        self.recall(task, worker, why, state, time.time())

    def recall(self, task: Task, worker: str, why: str, state: State, at_s: float | None) -> None:
        """Note a failure of that time, in seconds since 1970; None: nobody knows when."""
        at_utc = "" if at_s is None else utc_text(datetime.fromtimestamp(at_s, UTC))
        cause = without_numbers(why)
        with self._lock:
            before = self._failures.pop(cause, None)  # to the end
            self._failures[cause] = FailureStatus(
                at_utc=at_utc,
                task_id=task.task_id,
                worker=worker,
                why=why,
                state=state.value,
                count=before.count + 1 if before else 1,
            )
            if len(self._failures) > FAILURES:
                del self._failures[next(iter(self._failures))]

    def failures(self) -> list[FailureStatus]:
        """Return the latest failure of each cause, the latest cause first."""
        with self._lock:
            return list(reversed(self._failures.values()))

    def sweep_changed(self) -> None:
        """Draw another sample of pending tasks."""
        with self._lock:
            self._sample, self._stale_at_s = {}, 0.0

    # -- what is to come -----------------------------------------------------------------------------------

    def forecast(self, counts: Mapping[State, int]) -> Forecast:
        """Return how fast a sweep of so many tasks in each state goes, and when it will be done."""
        with self._lock:
            now_s = self._queue.now_s()
            if now_s >= self._stale_at_s:
                self._last, self._stale_at_s = self._forecast(counts, now_s), now_s + FORECAST_S
            return self._last

    def _forecast(self, counts: Mapping[State, int], now_s: float) -> Forecast:
        per_hour = None
        if len(self._done_s) > 1:
            per_hour = 3600 * (len(self._done_s) - 1) / max(now_s - self._done_s[0], 1e-3)
        held, leases = self._queue.holds.explain(), self._queue.leases()
        pending = counts[State.PENDING] - self._pending_in(held)
        if not pending and not leases:
            return Forecast(per_hour, None, HELD) if counts[State.PENDING] else Forecast(per_hour, 0.0)
        stalled = {each.lease_id for each in leases if self._stalls(each, now_s)}
        whole_s = {
            each.lease_id: None if each.lease_id in stalled else self._whole_s(each) for each in leases
        }
        by_progress = [(features_of(each.task), s) for each in leases[:KEPT] if (s := whole_s[each.lease_id])]
        self._usual = fit([*self._measured, *by_progress])
        if self._usual is None or not self._has_seen_enough(pending, leases, whole_s, now_s):
            return Forecast(per_hour, None, TOO_EARLY)
        usual = self._usual
        going = [
            each
            for each in leases
            if each.lease_id not in stalled and not _hangs(usual, each, whole_s[each.lease_id], now_s)
        ]
        workers = max(len(leases), self._registry.able()) - (len(leases) - len(going))
        if len(going) < len(leases) and (not workers or not pending + len(going)):
            return Forecast(per_hour, None, HANGS)
        if not workers:
            return Forecast(per_hour, None, "no worker may have tasks")
        model = self._with_late(usual, by_progress, going, whole_s, now_s)
        running_s = [_left_s(model, lease, whole_s[lease.lease_id], now_s) for lease in going]
        pending_s = self._pending_s(model, pending, held)
        return Forecast(per_hour, remaining_s(pending_s, pending, running_s, workers))

    def _has_seen_enough(
        self, pending: int, leases: Sequence[Lease], whole_s: Mapping[str, float | None], now_s: float
    ) -> bool:
        """Return whether enough is done for an ETA; running tasks count by their progress."""
        done = float(self._met)
        for lease in leases:
            if (expected_s := whole_s[lease.lease_id]) is not None and lease.since_s is not None:
                done += min(1.0, (now_s - lease.since_s) / expected_s)
        return done >= min(ENOUGH_TASKS, ENOUGH_SHARE * (self._met + len(leases) + pending))

    def _with_late(
        self,
        usual: "Model",
        by_progress: Sequence[tuple[Features, float]],
        going: Sequence[Lease],
        whole_s: Mapping[str, float | None],
        now_s: float,
    ) -> "Model":
        """Return the model with what runs for longer than expected: short tasks are measured first."""
        late = [
            (features_of(each.task), OVERRUN * (now_s - each.since_s))
            for each in going[:KEPT]
            if each.since_s is not None and whole_s[each.lease_id] is None
        ]
        late = [(features, s) for features, s in late if s > OVERRUN * usual.predict_s(features)]
        return fit([*self._measured, *by_progress, *late]) or usual

    def _whole_s(self, lease: Lease) -> float | None:
        """Return how long a running task will take, by the progress it has reported; None: too little."""
        done = self._registry.share_done(lease.worker)
        if done is None or lease.since_s is None:
            return None
        share, at_s, _ = done
        gone_s = at_s - lease.since_s
        return gone_s / share if share >= MIN_SHARE and gone_s >= MIN_TOLD_S else None

    def _stalls(self, lease: Lease, now_s: float) -> bool:
        """Return whether a running task has said nothing new for several times as long as before."""
        done = self._registry.share_done(lease.worker)
        if done is None or lease.since_s is None:
            return False
        _, at_s, gap_s = done
        usual_s = at_s - lease.since_s if gap_s is None else gap_s
        return now_s - at_s > max(HANG_S, HANG_TIMES * usual_s)

    def _pending_in(self, phases: Iterable[str]) -> int:
        by_phase = self._queue.queries.counts_by_phase()
        return sum(by_phase[each].get(State.PENDING, 0) for each in phases if each in by_phase)

    def _pending_s(self, model: "Model", pending: int, held: Mapping[str, str]) -> list[float]:
        left = self._queue.queries.pending_among([task for task, _ in self._sample.values()])
        if len(left) < min(RESAMPLE_BELOW, pending) or self._without != held.keys():
            left, self._without = self._queue.queries.sample(SAMPLE, held), frozenset(held)
            self._sample = {task.key: (task, features_of(task)) for task in left}
        known = [model.predict_s(self._sample[task.key][1]) for task in left]
        return known or [model.mean_s] * bool(pending)  # a search has yet to choose them

    def usual_s(self, task: Task) -> float | None:
        """Return how long a task of these values takes, by the last forecast; None: nothing is known."""
        with self._lock:
            return None if self._usual is None else self._usual.predict_s(features_of(task))

    def too_long(self, left_s: float | None) -> frozenset[str]:
        """Return the phases whose tasks will not fit into `left_s`, by the median of those completed."""
        if left_s is None:
            return frozenset()
        with self._lock:
            return frozenset(phase for phase, usual_s in self._median_s.items() if usual_s > left_s)


def _left_s(model: "Model", lease: Lease, whole_s: float | None, now_s: float) -> float:
    expected_s = whole_s or model.predict_s(features_of(lease.task))
    if lease.since_s is None:
        return expected_s
    gone_s = now_s - lease.since_s
    return (OVERRUN - 1) * gone_s if gone_s > OVERRUN * expected_s else max(0.0, expected_s - gone_s)


def _hangs(usual: "Model", lease: Lease, whole_s: float | None, now_s: float) -> bool:
    """Return whether a task without progress runs for so much longer than its like that it may never end."""
    features = features_of(lease.task)
    if lease.since_s is None or whole_s is not None or not usual.has_seen(features):
        return False
    return now_s - lease.since_s > max(HANG_S, HANG_TIMES * usual.predict_s(features))


def remaining_s(pending_s: Sequence[float], pending: int, running_s: Sequence[float], workers: int) -> float:
    """Return how long the rest of a sweep takes, in seconds, with `workers` at it.

    Args:
        pending_s: How long each of a sample of the pending tasks will take.
        pending: How many are pending in all.
        running_s: How long each running task will still take.
        workers: How many work, one task each; at least 1.
    """
    work_s = sum(running_s)
    if pending_s:
        work_s += pending * sum(pending_s) / len(pending_s)
    return max(work_s / workers, *running_s, *pending_s, 0.0)


# -- the model, pure ---------------------------------------------------------------------------------------


def features_of(task: Task) -> Features:
    """Return what the time of a task may depend on: its parameters and its phase, not its seed."""
    return {name: _simple(value) for name, value in task.config.items()} | {"": task.phase}


def _simple(value: Value) -> Value:
    return value if isinstance(value, int | float | str) else canonical(value)


@dataclass(frozen=True)
class Model:
    """What attempts have taken, in seconds: a mean, times a factor for each value."""

    mean_s: float
    factors: Mapping[str, Mapping[Value, float]]  # of the values that were seen

    def predict_s(self, features: Features) -> float:
        """Return how long a task of these values will take, in seconds."""
        return self.mean_s * math.prod(_factor(seen, features.get(n)) for n, seen in self.factors.items())

    def has_seen(self, features: Features) -> bool:
        """Return whether each value is one that was seen, or a number between two of them."""
        return all(_is_among(seen, features.get(name)) for name, seen in self.factors.items())


def fit(measured: Sequence[tuple[Features, float]]) -> Model | None:
    """Return the model of what was measured, in seconds; None of nothing.

    The factors are those for which the sum over all tasks of one value is what was measured: iterative
    proportional fitting, Deming & Stephan 1940, https://doi.org/10.1214/aoms/1177731829.
    """
    if not measured:
        return None
    names = dict.fromkeys(name for features, _ in measured for name in features)
    columns = {name: [features.get(name) for features, _ in measured] for name in names}
    columns = {name: column for name, column in columns.items() if len(set(column)) > 1}
    took_s = [max(seconds, 1e-3) for _, seconds in measured]  # zero would be a factor for ever
    mean_s = fmean(took_s)
    expected_s = [mean_s] * len(took_s)
    factors: dict[str, dict[Value, float]] = {name: dict.fromkeys(col, 1.0) for name, col in columns.items()}
    for _ in range(ROUNDS):
        for name, column in columns.items():
            ratios = _ratios(column, took_s, expected_s)
            expected_s = [seconds * ratios[value] for seconds, value in zip(expected_s, column, strict=True)]
            factors[name] = {value: factor * ratios[value] for value, factor in factors[name].items()}
    for name, column in columns.items():  # so that 1 is the mean of what was seen, for values that were not
        middle = fmean(factors[name][value] for value in column)
        mean_s *= middle
        factors[name] = {value: factor / middle for value, factor in factors[name].items()}
    return Model(mean_s, factors)


def _ratios(column: Sequence[Value], took_s: list[float], expected_s: list[float]) -> dict[Value, float]:
    took, expected = dict.fromkeys(column, 0.0), dict.fromkeys(column, 0.0)
    for value, seconds, guess_s in zip(column, took_s, expected_s, strict=True):
        took[value] += seconds
        expected[value] += guess_s
    return {value: seconds / expected[value] for value, seconds in took.items()}


def _factor(seen: Mapping[Value, float], value: Value) -> float:
    """Return the factor of a value; of a number that was not seen, what the trend of the others says."""
    if value in seen:
        return seen[value]
    known = {math.log(each): math.log(factor) for each, factor in seen.items() if _is_positive(each)}
    if len(known) < 2 or not _is_positive(value):
        return 1.0
    slope, height = linear_regression(list(known), list(known.values()))
    limit = math.log(MAX_TREND)
    trend = height + slope * math.log(value)
    return math.exp(min(max(trend, min(known.values()) - limit), max(known.values()) + limit))


def _is_among(seen: Iterable[Value], value: Value) -> bool:
    if value in seen:
        return True
    numbers = [each for each in seen if _is_positive(each)]
    return _is_positive(value) and bool(numbers) and min(numbers) < value < max(numbers)


def _is_positive(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
