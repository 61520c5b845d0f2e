"""The main function of a task's child process: import the experiment, run one task, report its outcome.

It exchanges JSON with the worker over a pipe that is also the lifeline: when the worker dies, the pipe closes
and the child ends with everything it has started. Torch is imported by the experiment's module, after the
device is pinned.
"""

import contextlib
import importlib
import inspect
import multiprocessing
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from distexp.context import Context
from distexp.errors import TaskStopped
from distexp.results.conversion import convert, whole_json
from distexp.run_folder import CHECKPOINT_FOLDER, RESULT_FILE, RunFolder
from distexp.system.process import (
    MARK_VARIABLE,
    detach,
    end_descendants,
    end_own_tree,
    lower_priority,
    own_resource_tracker,
    start_nothing_more,
)
from distexp.task import Cause, Halving, Number, RowRule, Scalar, Task, joined
from distexp.text import one_line, utc_text
from distexp.worker import provenance
from distexp.worker.folders import came_from, has_met_full_disk
from distexp.worker.metrics import MetricsFile, block_board, import_board
from distexp.worker.output import end_output, redirect_output, warn
from distexp.worker.reports import Reported, Reporter
from distexp.worker.rungs import Reached, RungGate, Verdict
from distexp.worker.trackers import announce

ERROR_CHARS = 8_000  # of a traceback that travel: its end; the task's log has the whole
OWN_FOLDER = Path(__file__).resolve().parents[1]  # what is in there is no code of the user
TORCH_REFUSALS = (  # of torch._C._cuda_init and torch.cuda._lazy_init, where build or driver are to blame
    "Torch not compiled with CUDA enabled",
    "Found no NVIDIA driver on your system",
    "The NVIDIA driver on your system is too old",
)
OUT_OF_MEMORY_NAMES = ("OutOfMemoryError", "MemoryError")  # torch's by name: only experiments import torch

Value = TypeVar("Value")
Experiment = Callable[[dict[str, Any], Context], Any]


@dataclass(frozen=True)
class Setup:
    """What a child is prepared for. Sent by `multiprocessing`, from the worker to its own child."""

    experiment: str
    device: str
    threads: int
    is_warm: bool  # by the template
    gpus: tuple[str, ...] = ()  # UUIDs of those that its task sees, of the worker's
    mark: str = "unmarked"  # of all that it starts
    nice: int = 0  # how far below the worker's priority it runs, 0 to 19


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """To the child: run this task."""

    task: Task
    attempt: int
    output_dir: str
    run_folder: str  # made once there is something in it
    log: str  # of what it prints until then
    log_start: int = 0  # where in there this attempt begins, in bytes
    rule: RowRule | None = None  # which rows are rows of the task
    halving: Halving | None = None  # where the task is compared with others


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To the child: save a checkpoint and stop."""


class Started(msgspec.Struct, frozen=True, tag="began"):
    """From the child: the experiment starts now."""


class OutputLost(msgspec.Struct, frozen=True, tag="output_lost"):
    """From the child: its log does not take what it prints."""

    problem: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """From the child: the result."""

    result: dict[str, Scalar]
    started_utc: str
    duration_s: float  # of the experiment alone
    torch_version: str = ""
    peak_gpu_mib: int | None = None
    notes: tuple[str, ...] = ()  # what its row shows differently, a line each
    has_left: bool = False  # by `context.Stopped`, once it was told to stop early
    stopped_at: Number | None = None  # the step at which it was stopped early


class Failed(msgspec.Struct, frozen=True, tag="broke"):
    """From the child, or about it: the attempt failed."""

    cause: Cause
    error: str
    met_full_disk: bool = False  # some disk, the task's own or another


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """From the child: stopped as asked; the task goes back."""


class Unusable(msgspec.Struct, frozen=True, tag="unusable"):
    """From the child: torch cannot use the GPU that the worker has claimed."""

    problem: str  # in torch's words


Outcome = Finished | Failed | Stopped | Unusable
FromChild = Started | Reported | Reached | OutputLost | Outcome
_from_worker: msgspec.json.Decoder[Run | Stop | Verdict] = msgspec.json.Decoder(Run | Stop | Verdict)
_encode = msgspec.json.encode


class OwnProcesses:
    """How processes start that the task starts."""

    start_method: str | None = None  # as its module has set it, also in the template; None: Python's default


class Inbox:
    """What the worker sends, read by a thread that ends the child when the worker is gone."""

    def __init__(self, channel: Connection) -> None:
        self.runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.stops_early = threading.Event()  # then `stop` is set, too
        self.answered = threading.Event()  # by a verdict
        threading.Thread(target=self._read, args=(channel,), name="lifeline", daemon=True).start()

    def _read(self, channel: Connection) -> None:
        try:
            while True:
                message = _from_worker.decode(channel.recv_bytes())
                if isinstance(message, Run):
                    self.runs.put(message)
                elif isinstance(message, Verdict):
                    self._take(message)
                else:
                    self.stop.set()
        except (EOFError, OSError):
            pass  # the worker is gone, or has closed the pipe because it needs this child no more
        finally:
            end_own_tree()

    def _take(self, verdict: Verdict) -> None:
        if verdict.stops:
            self.stops_early.set()
            self.stop.set()
        self.answered.set()


def main(channel: Connection, setup: Setup) -> None:
    """Run one task, the whole life of a child."""
    detach()
    own_pid = os.getpid()
    own_resource_tracker()
    os.environ[MARK_VARIABLE] = setup.mark
    is_imported = setup.experiment.partition(":")[0] in sys.modules  # in the template; else it is another's
    own_method = OwnProcesses.start_method if is_imported else None
    multiprocessing.set_start_method(own_method, force=True)  # not as this process was started
    inbox = Inbox(channel)
    if setup.gpus:  # before anything here starts CUDA
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(setup.gpus)
    loaded = prepare(setup.experiment, None if setup.is_warm else setup.device)
    run = inbox.runs.get()
    lower_priority(setup.nice)
    folder = RunFolder(Path(run.run_folder), run.task, Path(run.log))
    redirect_output(Path(run.log), folder.open, lambda error: _send(channel, OutputLost(str(error))))
    outcome: bytes | Failed | Stopped | Unusable
    if isinstance(loaded, Failed | Stopped):
        outcome = loaded
    elif setup.device != "cpu" and (problem := torch_problem(setup.device)):
        outcome = Unusable(problem)
    else:
        channel.send_bytes(_encode(Started()))
        metrics_file = MetricsFile(folder.path, run.attempt, begin=folder.open)
        reporter = make_reporter(run, metrics_file, channel, inbox)
        context = make_context(run, folder, setup, inbox.stop, reporter.report)
        outcome = guarded(lambda: _attempt(loaded, run, folder, context, inbox))
        metrics_file.close()
        if isinstance(outcome, Failed) and setup.device != "cpu":  # torch was imported when it ran
            told = command_problem(outcome.error) if run.task.command else torch_problem(setup.device)
            outcome = Unusable(told) if told else outcome
    end_output(outcome.error if isinstance(outcome, Failed) else "")
    if os.getpid() != own_pid:  # the experiment has forked, and this is not the process that was started
        os._exit(0 if isinstance(outcome, bytes) else 1)
    start_nothing_more()
    end_descendants()
    channel.send_bytes(outcome if isinstance(outcome, bytes) else _encode(outcome))
    os._exit(0)  # nothing is left to save; the interpreter's own teardown takes half a second with torch


def _attempt(experiment: Experiment, run: Run, folder: RunFolder, context: Context, inbox: Inbox) -> bytes:
    announce(run.task, folder.path, folder.open)
    return _encode(call(experiment, run.task, context, run.rule, inbox.stops_early.is_set))


def _send(channel: Connection, message: Reported | Reached | OutputLost) -> None:
    with contextlib.suppress(OSError):  # the worker is gone: `Inbox` ends this process
        channel.send_bytes(_encode(message))


def make_reporter(run: Run, metrics_file: MetricsFile, channel: Connection, inbox: Inbox) -> Reporter:
    """Return what takes the reports of a run; at a rung it waits, except for a command."""

    def send(message: Reported | Reached) -> None:
        _send(channel, message)

    if run.halving is None:
        return Reporter(metrics_file.add, send)
    gate = RungGate(run.halving, send, inbox.answered, waits=run.task.command is None)
    return Reporter(metrics_file.add, send, pass_report=gate.pass_report, last_step=run.halving.max_iter)


def torch_problem(device: str) -> str:
    """Return in torch's words why it cannot use the GPU; empty where it can, or is not imported."""
    torch: Any = sys.modules.get("torch")
    kind = device.partition(":")[0]
    place = {"cuda": "cuda", "mps": "backends.mps"}[kind]
    try:
        if attrgetter(place)(torch).is_available():
            return ""
    except AttributeError:  # not imported, or not whole
        return ""
    try:
        torch.zeros(1, device=kind)
    except (AssertionError, RuntimeError) as error:
        return one_line(f"torch {torch.__version__}: {str(error).strip().splitlines()[0]}")
    return f"torch {torch.__version__}: torch.{place}.is_available() is false"


def command_problem(error: str) -> str:
    """Return in torch's words, which the last output of a failed command holds, why it cannot use the GPU."""
    said = next((words for words in TORCH_REFUSALS if words in error), "")
    return f"torch of the command: {said}" if said else ""


def make_context(
    run: Run,
    folder: RunFolder,
    setup: Setup,
    stop: threading.Event,
    report: Callable[[Any, Any, Mapping[str, Any]], None],
) -> Context:
    """Return the experiment's context; its folders are made when it asks for them."""

    def make(path: Path) -> None:
        folder.open()
        path.mkdir(exist_ok=True)

    return Context(
        seed=run.task.seed,
        device=setup.device,
        gpus=len(setup.gpus),
        output_dir=Path(run.output_dir),
        run_dir=folder.path,
        checkpoint_dir=folder.path / CHECKPOINT_FOLDER,
        attempt=run.attempt,
        threads=setup.threads,
        command=run.task.command,
        python=run.task.python,
        has_seeds=run.task.has_seeds,
        on_report=report,
        stop_requested=stop.is_set,
        make_folder=make,
    )


def call(
    experiment: Experiment,
    task: Task,
    context: Context,
    rule: RowRule | None = None,
    stops_early: Callable[[], bool] = lambda: False,
) -> Finished:
    """Run the experiment and return its result, as a row can hold it; none if it is stopped early."""
    started_utc, started_s, has_left = datetime.now(UTC), time.monotonic(), False
    try:
        result = experiment(joined(task.config), context)
    except SystemExit as leaving:  # a script ends well by `sys.exit()`, too
        if leaving.code not in (None, 0):
            raise
        result = None
    except TaskStopped:
        if not stops_early():
            raise
        result, has_left = {}, True
    duration_s = round(time.monotonic() - started_s, 3)
    converted = convert(task, result, rule)
    if converted.is_cut:
        write_whole(context.run_dir / RESULT_FILE, result)
    notes = () if stops_early() else converted.notes  # its row is what it has reported
    for note in notes:
        warn(note)
    return Finished(
        converted.metrics,
        utc_text(started_utc),
        duration_s,
        **provenance.of_process(),
        notes=notes,
        has_left=has_left,
    )


def write_whole(path: Path, result: Any) -> None:
    """Write a result that its row cannot hold; a disk that refuses costs a warning."""
    try:
        path.write_text(whole_json(result), encoding="utf-8")
    except OSError as error:
        warn(f"{path}: cannot be written ({error.strerror})")


def prepare(experiment: str, warm_up_device: str | None) -> Experiment | Failed | Stopped:
    """Return the function that `module:function` names, its module imported and, on a device, warmed up.

    An error of the warm-up is no error of the import: it is shown, and the task tells whether it matters.
    """
    module_name = experiment.partition(":")[0]
    loaded = guarded(lambda: import_experiment(experiment), on_import=True)
    warm_up = getattr(sys.modules.get(module_name), "warm_up", None)
    if warm_up is not None and warm_up_device is not None and not isinstance(loaded, Failed | Stopped):
        warmed = guarded(lambda: warm_up(warm_up_device))
        if isinstance(warmed, Failed):
            print(f"{module_name}.warm_up failed: {warmed.error}", file=sys.stderr, flush=True)
    board = guarded(import_board)  # ahead of need
    if isinstance(board, Failed):  # a TensorBoard that does not fit costs no task
        print(f"no curves for TensorBoard: {board.error}", file=sys.stderr, flush=True)
        block_board()
    OwnProcesses.start_method = multiprocessing.get_start_method(allow_none=True)
    return loaded


def import_experiment(experiment: str) -> Experiment:
    """Return the function that `module:function` names; whatever its module raises comes through.

    Raises:
        TypeError: It cannot be called with parameters and context, or would return before its first line
            has run.
    """
    module_name, _, function_name = experiment.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        error.msg += _what_hides(module_name.partition(".")[0])
        raise
    function: Experiment = getattr(module, function_name)
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{experiment} would return before its first line has run: "
            "write it with `return`, without `yield` and `async`"
        )
    if not _takes_params_and_context(function):
        raise TypeError(
            f"{experiment} takes {inspect.signature(function)}, and an experiment (params, context): call "
            f"it in a function of your own, `def run(params, context): return {function_name}(...)`"
        )
    return function


def _what_hides(package: str) -> str:
    """Return that a module elsewhere hides the working folder's package; empty where none does.

    Python takes a folder without `__init__.py` only if no entry of `sys.path` has a module of its name.
    """
    found = getattr(sys.modules.get(package), "__file__", None)
    if not found or Path.cwd() in Path(found).parents:
        return ""
    for folder in (Path(package), Path("src", package)):
        if os.path.isdir(folder):
            return f" ({found} hides the folder {folder}; add an empty {folder / '__init__.py'})"
    return ""


def _takes_params_and_context(function: Experiment) -> bool:
    try:
        inspect.signature(function).bind({}, None)
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def guarded(step: Callable[[], Value], *, on_import: bool = False) -> Value | Failed | Stopped:
    """Do what the user's code does, and turn whatever it raises into an outcome."""
    try:
        return step()
    except TaskStopped:
        return Stopped()
    except BaseException as error:  # noqa: BLE001 - around the experiment: sys.exit() and all else it does is its failure
        text = describe_error(error)[-ERROR_CHARS:]
        return Failed(_cause(error, on_import), text, has_met_full_disk(error, text.splitlines()[-1]))


def _cause(error: BaseException, on_import: bool) -> Cause:
    if told := _told_cause(error):
        return told
    if any(type(each).__name__ in OUT_OF_MEMORY_NAMES for each in came_from(error)):
        return Cause.OUT_OF_MEMORY
    return Cause.IMPORT if on_import else Cause.ERROR


def _told_cause(error: BaseException) -> Cause | None:
    """Return the cause that the exception itself names; the user's may answer to any name, or raise."""
    cause = inspect.getattr_static(error, "failure_cause", None)
    return cause if isinstance(cause, Cause) else None


def describe_error(error: BaseException) -> str:
    """Return the traceback from the first frame that is not ours; the last line is the error's own.

    It begins with the place in the user's code. Of a command that failed, only how it did.
    """
    if _told_cause(error) is not None:
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace):
        trace = trace.tb_next
    text, said = _formatted(error, trace)
    place = _users_place(error, trace)
    line = f"{place}: {said}" if place else said
    if text.splitlines()[-1] != line:
        text += f"\n{line}"
    return text.encode(errors="replace").decode()  # a file name may hold what UTF-8 cannot


def _formatted(error: BaseException, trace: TracebackType | None) -> tuple[str, str]:
    """Return the traceback, and the line that names the error, whatever notes were added to it."""
    kind = type(error)
    try:
        told = traceback.TracebackException(kind, error, trace)
    except Exception:  # noqa: BLE001 - a class of the user's that raises when it is asked for its notes
        said = one_line(f"{kind.__name__}: {', '.join(map(repr, error.args))}")
        return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(trace), said]), said
    text = "".join(told.format()).rstrip()
    told.__notes__ = None
    return text, one_line([*told.format_exception_only()][-1].splitlines()[0])


def _is_ours(trace: TracebackType) -> bool:
    return Path(trace.tb_frame.f_code.co_filename).parent == OWN_FOLDER / "worker"


def _users_place(error: BaseException, trace: TracebackType | None) -> str:
    """Return file and line of the user's code at which the error came up; empty where it shows none."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(trace)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno or 0))
    with contextlib.suppress(OSError):  # the experiment has left for a folder that is gone
        folder = Path.cwd()
        for name, line in reversed(places):
            path = Path(name)
            is_installed = "site-packages" in path.parts or OWN_FOLDER in path.parents
            if path.is_relative_to(folder) and not is_installed:
                return f"{path.relative_to(folder).as_posix()}:{line}"
    return ""
