"""What a child makes of an experiment: results, errors, reports. In this process, without a child."""

import functools
import json
import re
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from distexp.context import Context
from distexp.experiments.command import CommandFailed
from distexp.run_folder import RunFolder
from distexp.task import Cause, Task, make_task
from distexp.worker.reports import Reporter
from distexp.worker.task_main import (
    Failed,
    Finished,
    Run,
    Setup,
    Stopped,
    call,
    guarded,
    make_context,
    prepare,
    write_whole,
)

CONTEXT = Context(seed=42)
HERE = "tests/worker/test_task_main.py"


def a_task() -> Task:
    config = {"width": 1}
    return make_task(
        task_id="exp1_0_42", phase="exp1", config=config, seed=42, output_dir="results", axes=("width",)
    )


def outcome_of(experiment: Callable[[dict[str, Any], Context], Any]) -> Finished | Failed | Stopped:
    return guarded(functools.partial(call, experiment, a_task(), CONTEXT))


def returned(value: Any) -> Finished | Failed | Stopped:
    return outcome_of(lambda params, context: value)


def broke(outcome: object) -> tuple[Cause, str]:
    """Return cause and last line, without the place in this file that it names."""
    assert isinstance(outcome, Failed)
    return outcome.cause, re.sub(rf"^{HERE}:\d+: ", "", outcome.error.splitlines()[-1])


# -- errors


def test_a_traceback_begins_at_the_users_own_line() -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise KeyError("learning_rate")

    outcome = outcome_of(experiment)
    assert isinstance(outcome, Failed)
    lines = outcome.error.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert re.fullmatch(rf'  File "{re.escape(__file__)}", line \d+, in experiment', lines[1])
    assert lines[2:4] == ['    raise KeyError("learning_rate")', "KeyError: 'learning_rate'"]
    assert outcome.cause is Cause.ERROR


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            "import json\ndef run(params, context):\n    return json.loads('')",
            "mine.py:3: json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        ),
        ("def run(params, context):\n    raise ValueError('a\\nb')", "mine.py:2: ValueError: a"),
        (
            "def run(params, context):\n    return helper()\ndef helper():\n    return 1 / 0",
            "mine.py:4: ZeroDivisionError: division by zero",
        ),
        ("def run(params context):\n    pass", "mine.py:1: SyntaxError: "),
        ("import absent_thing", "mine.py:1: ModuleNotFoundError: No module named 'absent_thing'"),
    ],
)
def test_the_last_line_of_an_error_begins_with_the_users_own_line(
    source: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(source)
    loaded = prepare("mine:run", None)
    outcome = outcome_of(loaded) if callable(loaded) else loaded
    assert isinstance(outcome, Failed)
    assert outcome.error.splitlines()[-1].startswith(shown)


def test_an_error_in_a_folder_that_is_gone_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    outcome = guarded(lambda: 1 / 0)
    assert isinstance(outcome, Failed)
    assert outcome.error.endswith("ZeroDivisionError: division by zero")


def test_what_is_installed_in_the_working_folder_is_no_line_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".venv" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "installed_experiment.py").write_text("def run(p, c): 1 / 0")
    monkeypatch.syspath_prepend(str(folder))
    loaded = prepare("installed_experiment:run", None)
    assert callable(loaded)
    assert broke(outcome_of(loaded)) == (Cause.ERROR, "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("code", [1, "no data"])
def test_an_experiment_that_leaves_by_sys_exit_with_a_code_has_failed(code: object) -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise SystemExit(code)

    assert broke(outcome_of(experiment)) == (Cause.ERROR, f"SystemExit: {code}")


@pytest.mark.parametrize("code", [0, None])
def test_an_experiment_that_leaves_by_sys_exit_without_a_code_has_ended_well(code: object) -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise SystemExit(code)

    outcome = outcome_of(experiment)
    assert isinstance(outcome, Finished)
    assert outcome.result == {}


def test_memory_errors_of_python_and_torch_are_out_of_memory() -> None:
    torch_error = type("OutOfMemoryError", (RuntimeError,), {})
    for kind in (MemoryError, torch_error):

        def experiment(params: dict[str, Any], context: Context, kind: type[Exception] = kind) -> None:
            raise kind("tried to allocate 3 GiB")

        cause, line = broke(outcome_of(experiment))
        assert cause is Cause.OUT_OF_MEMORY
        assert line.endswith(f"{kind.__name__}: tried to allocate 3 GiB")


@pytest.mark.parametrize("is_told", [True, False], ids=["from it", "while it was handled"])
@pytest.mark.parametrize("kind", [MemoryError, type("OutOfMemoryError", (RuntimeError,), {})])
def test_an_error_that_came_from_want_of_memory_is_out_of_memory(
    kind: type[Exception], is_told: bool
) -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        try:
            raise kind("tried to allocate 3 GiB")
        except kind as error:
            raise RuntimeError("the training has failed") from (error if is_told else None)

    assert broke(outcome_of(experiment)) == (Cause.OUT_OF_MEMORY, "RuntimeError: the training has failed")


@pytest.mark.parametrize("message", ["no such width", "no such width\nsee the log"])
@pytest.mark.parametrize("is_users", [True, False], ids=["own code", "installed code"])
def test_notes_on_an_error_do_not_replace_it(
    message: str, is_users: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        error = ValueError(message)
        error.add_note("For simplicity, JAX has removed its internal frames\nfrom the traceback.")
        raise error

    if not is_users:
        monkeypatch.chdir(tmp_path)
    outcome = outcome_of(experiment)
    assert broke(outcome) == (Cause.ERROR, "ValueError: no such width")
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("Traceback")
    assert "\nFor simplicity, JAX has removed its internal frames\n" in outcome.error


def test_an_error_that_raises_when_it_is_asked_for_anything_is_told_all_the_same() -> None:
    class Odd(Exception):
        def __getattr__(self, name: str) -> object:
            raise LookupError(name)

    def experiment(params: dict[str, Any], context: Context) -> None:
        raise Odd("no such width")

    outcome = outcome_of(experiment)
    cause, line = broke(outcome)
    assert cause is Cause.ERROR
    assert line.partition("Odd: ")[2].strip("'") == "no such width"
    assert isinstance(outcome, Failed)
    assert 'raise Odd("no such width")' in outcome.error


def test_a_stop_as_asked_is_no_failure() -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise context.Stopped("saved")

    assert outcome_of(experiment) == Stopped()


def test_a_text_that_utf8_cannot_hold_does_not_hide_the_error() -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise FileNotFoundError("data/\udcff.csv")

    outcome = outcome_of(experiment)
    assert broke(outcome) == (Cause.ERROR, r"FileNotFoundError: data/\udcff.csv")
    assert msgspec.json.encode(outcome)


def test_of_a_long_traceback_the_end_travels() -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise ValueError("x" * 50_000 + " the end")

    outcome = outcome_of(experiment)
    assert isinstance(outcome, Failed)
    assert len(outcome.error) == 8000
    assert outcome.error.endswith("x the end")


@pytest.mark.parametrize(
    ("experiment", "line"),
    [
        ("no_such_module_here:run", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("json:no_such_name", "AttributeError: module 'json' has no attribute 'no_such_name'"),
        (
            "ast:walk",
            "TypeError: ast:walk would return before its first line has run: "
            "write it with `return`, without `yield` and `async`",
        ),
        (
            "textwrap:dedent",
            "TypeError: textwrap:dedent takes (text), and an experiment (params, context): call it in a "
            "function of your own, `def run(params, context): return dedent(...)`",
        ),
    ],
)
def test_an_experiment_that_cannot_be_imported_says_so(experiment: str, line: str) -> None:
    assert broke(prepare(experiment, None)) == (Cause.IMPORT, line)


@pytest.mark.parametrize("base", ["", "src"])
def test_a_module_elsewhere_that_hides_a_folder_of_experiments_is_named(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"hidden_{base}examples"  # both are imported in this process
    hiding, folder = tmp_path / "installed" / f"{name}.py", tmp_path / "mine" / base / name
    for path in (hiding, folder / "train.py"):
        path.parent.mkdir(parents=True)
        path.write_text("def run(params, context): return {}")
    for entry in (hiding.parent, folder.parent):
        monkeypatch.syspath_prepend(str(entry))
    monkeypatch.chdir(tmp_path / "mine")
    cause, line = broke(prepare(f"{name}.train:run", None))
    assert cause is Cause.IMPORT
    shown = folder.relative_to(tmp_path / "mine")
    assert line.endswith(f" ({hiding} hides the folder {shown}; add an empty {shown / '__init__.py'})")


def test_an_import_that_runs_out_of_memory_may_work_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "greedy_experiment.py").write_text("raise MemoryError('20 GiB')")
    outcome = prepare("greedy_experiment:run", None)
    assert broke(outcome) == (Cause.OUT_OF_MEMORY, "MemoryError: 20 GiB")


def test_a_warm_up_that_fails_is_no_failed_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cold_experiment.py").write_text("def warm_up(device): 1 / 0\ndef run(p, c): return {}")
    assert callable(prepare("cold_experiment:run", "cpu"))
    assert "cold_experiment.warm_up failed" in capsys.readouterr().err


def test_of_a_command_that_failed_only_the_end_is_told() -> None:
    def experiment(params: dict[str, Any], context: Context) -> None:
        raise CommandFailed("python", -9)

    outcome = outcome_of(experiment)
    assert outcome == Failed(Cause.CRASH, "python: killed by SIGKILL, perhaps for want of memory")


# -- results


def test_a_result_is_kept_in_any_form_and_what_differs_is_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = returned({"test": {"acc": np.float32(0.5)}, "width": 2, "history": [1, 2], "best": None})
    assert isinstance(outcome, Finished)
    assert outcome.result == {"test.acc": 0.5, "width_result": 2, "history": "[1, 2]", "best": ""}
    (note,) = outcome.notes
    assert capsys.readouterr().out == f"warning: {note}\n"


def test_a_result_that_is_too_long_for_a_row_is_whole_in_result_json(tmp_path: Path) -> None:
    text = "\ud800" + "x" * 40_000
    context = Context(seed=42, run_dir=tmp_path)
    finished = call(lambda params, context: {"text": text}, a_task(), context)
    assert len(str(finished.result["text"])) == 32_767
    assert json.loads((tmp_path / "result.json").read_text()) == {"text": text}
    write_whole(tmp_path / "absent" / "result.json", {"a": 1})  # a disk that refuses is no failure


def test_an_experiment_may_change_its_parameters_without_changing_the_task() -> None:
    task = a_task()

    def experiment(params: dict[str, Any], context: Context) -> dict[str, int]:
        params["width"] = 99
        return {"acc": 1}

    call(experiment, task, CONTEXT)
    assert task.config == {"width": 1}


# -- reports


def test_a_report_reaches_the_worker_whatever_it_holds(tmp_path: Path) -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        folder = RunFolder.of(tmp_path / "runs" / "run", a_task())
        run = Run(
            task=a_task(),
            attempt=2,
            output_dir=str(tmp_path),
            run_folder=str(folder.path),
            log=str(folder.waiting_log),
        )
        reporter = Reporter(
            record=lambda *reported: None,
            send=lambda message: theirs.send_bytes(msgspec.json.encode(message)),
        )
        setup = Setup("json:dumps", "cpu", 1, False)
        context = make_context(run, folder, setup, threading.Event(), reporter.report)
        context.report(loss=1)  # without a step: left out
        context.report(np.int64(1), loss=np.float32(0.5), curve=[1, 2])
        found = json.loads(ours.recv_bytes())
    assert found == {"type": "reported", "step": 1, "total": None, "metrics": {"loss": 0.5}}
    assert not folder.path.exists()
    assert context.run_dir == folder.path
    assert [path.name for path in folder.path.iterdir()] == ["params.json"]
    assert context.checkpoint_dir.is_dir()
