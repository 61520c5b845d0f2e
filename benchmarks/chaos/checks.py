"""What must hold after a run. Pure over `Evidence`; every check returns what it found wrong, a line each."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.chaos.experiments import score
from benchmarks.chaos.plan import SAMPLES
from distexp.queue.task_queue import FAILURE_BUDGET, LOSS_BUDGET
from distexp.results.rungs import RungRecord
from distexp.task import Task
from distexp.text import cell_text

LATE_S = 1.0  # between a line's making and its arrival here, where the machine is not overloaded

Work = tuple[str, int, int]  # kind, size, seed: what duplicates share


@dataclass(frozen=True)
class Line:
    """A line that a process printed."""

    at_s: float  # of its arrival, monotonic
    who: str
    text: str


@dataclass(frozen=True)
class Mark:
    """A line of the diary: an attempt lived at that time."""

    work: Work
    attempt: int
    pid: int
    at_s: float  # monotonic
    what: str  # start, step, end


@dataclass(frozen=True)
class Table:
    """One results file."""

    path: str
    rows: tuple[Mapping[str, str], ...]
    bad: tuple[str, ...] = ()  # records of the wrong length


@dataclass(frozen=True)
class Evidence:
    """Everything that a run left behind."""

    wanted: tuple[Task, ...]  # by the config as it stands at the end
    known: tuple[Task, ...]  # asked for at any time
    tables: tuple[Table, ...] = ()
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    left_over: tuple[str, ...] = ()  # processes, held locks, half files, spooled results, live leases
    torn_lines: int = 0  # set aside by the product
    tears: int = 0  # made by the plan
    deleted_s: tuple[float, ...] = ()  # when what the manager knows beside the rows was deleted
    ends: tuple[tuple[str, int, bool], ...] = ()  # process, exit code, whether that says nothing
    overdue: str = ""  # what did not end in time
    rungs: tuple[RungRecord, ...] = ()  # every verdict
    late_s: float = LATE_S  # between a line's making and its arrival here, at most

    def found_rows(self, task: Task) -> int:
        """Return how many rows this task has."""
        return sum(is_row_of(task, row) for table in self.tables for row in table.rows)


def is_row_of(task: Task, row: Mapping[str, str]) -> bool:
    """Return whether a row of ours is this task's: our rows hold every parameter as text."""
    wanted = {"phase": task.phase, "seed": str(task.seed)}
    wanted |= {name: cell_text(value) for name, value in task.config.items()}
    return all(row.get(name) == text for name, text in wanted.items())


def violations(evidence: Evidence) -> list[str]:
    """Return everything that does not hold; nothing if all is well."""
    return [f"{check.__name__[6:]}: {found}" for check in CHECKS for found in check(evidence)]


def check_ended(evidence: Evidence) -> Iterator[str]:
    """Everything came to its end in time."""
    if evidence.overdue:
        yield evidence.overdue


def check_one_row(evidence: Evidence) -> Iterator[str]:
    """Each wanted task has its one row, or failed within its budgets for a cause that was said."""
    wanted = {task.key for task in evidence.wanted}
    for task in {task.key: task for task in (*evidence.known, *evidence.wanted)}.values():
        rows = evidence.found_rows(task)
        if rows > 1:
            yield f"{task.task_id} has {rows} rows"
        if rows == 0 and task.key in wanted and not _stands_as_failed(evidence, task):
            yield f"{task.task_id} has no row and did not fail"


def _stands_as_failed(evidence: Evidence, task: Task) -> bool:
    end = re.compile(rf"Task {re.escape(task.task_id)} .*(failure|loss) (\d+) of (\d+), now failed")
    ends = [found for line in evidence.lines if (found := end.search(line.text))]
    return any(int(found[2]) == {"failure": FAILURE_BUDGET, "loss": LOSS_BUDGET}[found[1]] for found in ends)


def check_rows_are_right(evidence: Evidence) -> Iterator[str]:
    """Each row is of a task that was asked for, whole, with the right result."""
    for table in evidence.tables:
        for text in table.bad:
            yield f"{table.path}: a record of the wrong length: {text[:100]!r}"
        for row in table.rows:
            if not any(is_row_of(task, row) for task in evidence.known):
                yield f"{table.path}: a row of no task: {dict(row)}"
            elif row["score"] != str(score(row["kind"], int(row["size"]), int(row["seed"]))):
                yield f"{table.path}: {row['task_id']} has the score {row['score']}"


def check_acknowledged(evidence: Evidence) -> Iterator[str]:
    """What was said to be complete, by manager or worker, has its row."""
    tasks = {task.task_id: task for task in evidence.known}
    said = {found[1] for line in evidence.lines if (found := re.search(r"Task (\S+) completed\b", line.text))}
    for task_id in sorted(said):
        if task_id not in tasks or not evidence.found_rows(tasks[task_id]):
            yield f"{task_id} was acknowledged and has no row"


_ASSIGNED = re.compile(r"Assigned task (\S+) to ")
_MOVED = re.compile(
    r"Task (\S+) (?:completed (by)|(?:lost by|failed on) .*, now (\w+)\)"
    r"|(given back) by|(failed): it ran out)"
)


def _was_run(lines: Sequence[Line], number: int, name: str) -> bool:
    return any(f"Running task {name} " in line.text for line in lines[number:])


def check_moves(evidence: Evidence) -> Iterator[str]:
    """The manager's moves follow the table: one lease at a time, and nothing after complete or failed.

    What no line tells: a worker that was given up may come back to its task, and a manager that was killed
    right after it took a task back has not said so, but the worker has. Threads write what they did a moment
    later, so the line of a lease's end may follow that of the next lease, and that of a lease the row's.
    """
    states: dict[str, str] = defaultdict(lambda: "pending")
    given_back: set[str] = set()  # by the word of the worker
    overtaken: set[int] = set()  # lines that were met before their turn
    for number, line in enumerate(evidence.lines):
        if "Generated " in line.text and any(at_s < line.at_s for at_s in evidence.deleted_s):
            states = defaultdict(lambda: "pending", {k: v for k, v in states.items() if v == "complete"})
        elif found := re.search(r"Giving task (\S+) back", line.text):
            given_back.add(found[1])
        elif found := _ASSIGNED.search(line.text):
            name = found[1]
            if states[name] == "complete" and not _was_run(evidence.lines, number, name):
                continue  # the row came while the lease was written down: the worker got another task
            late = _late_end(evidence, number, name)
            if states[name] == "assigned" and late is not None:
                states[name] = "pending"
                overtaken.add(late)
            if states[name] != "pending" and not (states[name] == "assigned" and name in given_back):
                yield f"{name}: assigned while {states[name]} ({line.who}: {line.text})"
            states[name] = "assigned"
            given_back.discard(name)
        elif (
            line.who.startswith("manager") and number not in overtaken and (found := _MOVED.search(line.text))
        ):
            name = found[1]
            if states[name] == "complete":
                yield f"{name}: moved after it was complete ({line.who}: {line.text})"
            states[name] = _state_after(found)


def _late_end(evidence: Evidence, number: int, name: str) -> int | None:
    """Return the number of a line, soon after this one, that tells of the lease before; or None."""
    lines = evidence.lines
    for late in range(number + 1, len(lines)):
        if lines[late].at_s > lines[number].at_s + evidence.late_s:
            break
        found = _MOVED.search(lines[late].text) if lines[late].who == lines[number].who else None
        if found and found[1] == name:
            return late if _state_after(found) == "pending" else None
    return None


def _state_after(moved: re.Match[str]) -> str:
    if moved[2] or moved[5]:
        return "complete" if moved[2] else "failed"
    return "failed" if moved[3] == "failed" else "pending"


def check_one_lease(evidence: Evidence) -> Iterator[str]:
    """Two attempts at one task lived at one time only if the earlier one's lease had been ended as lost.

    Not where the manager saw that the worker's process was gone: then nothing of the attempt was to be left.
    """
    tasks = defaultdict(list)
    for task in evidence.known:
        tasks[_work(task)].append(task.task_id)
    lives: dict[Work, dict[int, list[Mark]]] = defaultdict(lambda: defaultdict(list))
    for mark in evidence.marks:
        lives[mark.work][mark.pid].append(mark)
    for work, by_pid in lives.items():
        attempts = sorted((list(marks) for marks in by_pid.values()), key=lambda marks: marks[0].at_s)
        for earlier, later in pairwise(attempts):
            if earlier[-1].at_s > later[0].at_s:
                pair = sorted((earlier[0], later[0]), key=lambda mark: mark.attempt)
                is_forgotten = any(
                    earlier[0].at_s - evidence.late_s < at_s < later[0].at_s for at_s in evidence.deleted_s
                )
                if not is_forgotten and not _was_lost(evidence, tasks[work], *pair):
                    yield (
                        f"{work}: attempt {later[0].attempt} (pid {later[0].pid}) began "
                        f"{earlier[-1].at_s - later[0].at_s:.2f} s before the end of attempt "
                        f"{earlier[0].attempt} (pid {earlier[0].pid}), whose lease had not been lost"
                    )


def _was_lost(evidence: Evidence, task_ids: Sequence[str], first: Mark, second: Mark) -> bool:
    """Return whether a lease on the task ended between the start of the one attempt and that of the other.

    A child may start long after its task was assigned; the worker says when it got it.
    """
    lines, late_s = evidence.lines, evidence.late_s
    running = {f"Running task {name} (attempt {first.attempt})" for name in task_ids}
    assigned_s = [
        line.at_s
        for line in lines
        if line.at_s <= first.at_s + late_s and any(words in line.text for words in running)
    ]
    since_s, until_s = max(assigned_s, default=first.at_s), second.at_s + late_s
    losses = [line for line in lines for name in task_ids if f"Task {name} lost by" in line.text]
    lost = [line.at_s for line in losses if "its process is gone" not in line.text]
    return any(since_s - late_s <= at_s <= until_s for at_s in lost)


def _work(task: Task) -> Work:
    return str(task.config["kind"]), int(task.config["size"]), task.seed


def check_rungs(evidence: Evidence) -> Iterator[str]:
    """Each task was judged once at each rung, and no more than one of its rows says that it was stopped."""
    verdicts = Counter((each.task_id, each.key, each.rung) for each in evidence.rungs)
    for (task_id, _, rung), number in verdicts.items():
        if number > 1:
            yield f"{task_id} was judged {number} times at step {rung}"


def check_samples(evidence: Evidence) -> Iterator[str]:
    """A search ran as many configurations as it was to, and not one more.

    One that was out when all that its manager knows was deleted may come beside those chosen anew.
    """
    rows = [row for table in evidence.tables for row in table.rows]
    for phase in sorted({task.phase for task in evidence.wanted if task.phase.endswith("_search")}):
        sizes = {row["size"] for row in rows if row["phase"] == phase}
        sizes |= {str(task.config["size"]) for task in evidence.wanted if task.phase == phase}
        if len(sizes) < SAMPLES or (len(sizes) > SAMPLES and not evidence.deleted_s):
            yield f"{phase} ran {len(sizes)} configurations, not {SAMPLES}"


def check_nothing_left(evidence: Evidence) -> Iterator[str]:
    """No process, lock, half file, spooled result or live lease."""
    yield from evidence.left_over
    if evidence.torn_lines > evidence.tears:
        yield f"{evidence.torn_lines} torn lines were set aside, the plan tore {evidence.tears}"


_BIRTH = ("multiprocessing/spawn.py", "multiprocessing/forkserver.py")  # of a child, or of its template
_BUGS = ("Traceback (most recent call last)", "is not in the table", "internal error", "request failed")


def check_no_bug_shown(evidence: Evidence) -> Iterator[str]:
    """No process printed a traceback, but for Python's own where a worker left at the birth of a child."""
    excused = {who for who, _, is_excused in evidence.ends if is_excused}
    excused |= {line.who for line in evidence.lines if re.search(r"Giving task \S+ back", line.text)}
    shown: Counter[str] = Counter()
    for number, line in enumerate(evidence.lines):
        if any(word in line.text for word in _BUGS):
            after = [each.text for each in evidence.lines[number : number + 20] if each.who == line.who]
            is_birth = any(module in text for module in _BIRTH for text in after[:8])
            shown[line.who] += not (is_birth and line.who in excused)
    for who, number in shown.items():
        if number:
            yield f"{who} printed {number} tracebacks or refused moves"


def check_exits(evidence: Evidence) -> Iterator[str]:
    """Every process that the plan did not kill ended in good order; a manager's 1 says that a task failed."""
    has_failed = any(
        not evidence.found_rows(task) and _stands_as_failed(evidence, task) for task in evidence.wanted
    )
    for who, code, is_excused in evidence.ends:
        says_so = who.startswith("manager") and code == 1 and has_failed
        if code != 0 and not is_excused and not says_so:
            yield f"{who} ended with exit code {code}"


def mark_of(line: Mapping[str, Any]) -> Mark:
    """Return the diary's line as a mark."""
    kind, size, seed = line["work"]
    return Mark((kind, size, seed), line["attempt"], line["pid"], line["at_s"], line["what"])


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    check_ended,
    check_one_row,
    check_rows_are_right,
    check_acknowledged,
    check_moves,
    check_one_lease,
    check_rungs,
    check_samples,
    check_nothing_left,
    check_no_bug_shown,
    check_exits,
)
