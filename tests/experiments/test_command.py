import os
import shlex
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from distexp.context import Context
from distexp.experiments.command import CommandFailed, arguments, run, with_python_found
from distexp.task import Cause


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spaced = tmp_path / "a folder"
    spaced.mkdir()
    return spaced


def context(command: str, folder: Path, **others: object) -> Context:
    return Context(
        seed=7,
        output_dir=folder,
        run_dir=folder / "run",
        checkpoint_dir=folder / "ckpt",
        command=command,
        **others,  # type: ignore[arg-type]
    )


def script(folder: Path, text: str, options: str = "") -> str:
    """Write a Python program, and return the command that runs it."""
    path = folder / "my program.py"
    path.write_text("import json, os, sys, time\n" + text)
    return f"python {shlex.quote(str(path))} {options}"


def test_a_value_with_spaces_and_quotes_stays_one_argument(folder: Path) -> None:
    command = script(
        folder, "print(json.dumps({'words': '|'.join(sys.argv[1:])}))", "--name={name} {seed} {flag}"
    )
    result = run({"name": "a 'b' \"c\" $HOME", "flag": True}, context(command, folder))
    assert result == {"words": "--name=a 'b' \"c\" $HOME|7|true"}


def test_the_result_file_wins_over_the_output(folder: Path) -> None:
    text = "print('{\"acc\": 1}')\njson.dump({'acc': 2}, open(os.environ['DISTEXP_RESULT'], 'w'))"
    assert run({}, context(script(folder, text), folder)) == {"acc": 2}


def test_without_a_result_file_the_last_json_object_of_the_output_is_the_result(folder: Path) -> None:
    text = "print('{\"acc\": 1}')\nprint('{\"acc\": 2}')\nprint('[3]')\nprint('{torn')\nprint('bye', end='')"
    assert run({}, context(script(folder, text), folder)) == {"acc": 2}


def test_the_objects_that_two_processes_print_at_once_all_count(folder: Path) -> None:
    text = """os.write(1, b'{"step": 1, "acc": 1}{"step": 1, "acc": 2} \\n\\n')
with open(os.environ['DISTEXP_REPORT'], 'a') as file: file.write('{"step": 2}{"step": 3}\\n\\n')
print('{"acc": 3}, {"acc": 4}')"""
    steps = list[float]()
    made = context(script(folder, text), folder, on_report=lambda step, *_: steps.append(step))
    assert run({}, made) == {"step": 1, "acc": 2}
    assert sorted(steps) == [1, 1, 2, 3]


@pytest.mark.parametrize("before", [r"\ufeff", r"10%\r100%\r"])
def test_a_byte_order_mark_or_a_progress_bar_may_stand_before_the_result(folder: Path, before: str) -> None:
    text = f"sys.stdout.buffer.write('{before}{{\"acc\": 1}}\\n'.encode())"
    assert run({}, context(script(folder, text), folder)) == {"acc": 1}


def test_a_result_file_of_powershell_is_read(folder: Path) -> None:
    text = "open(os.environ['DISTEXP_RESULT'], 'w', encoding='utf-16').write('{\"acc\": 1}\\r\\n')"
    assert run({}, context(script(folder, text), folder)) == {"acc": 1}


def test_a_last_output_that_is_no_text_is_one_line_of_the_error(folder: Path) -> None:
    text = "sys.stderr.buffer.write(bytes(range(256)))\nsys.exit(1)"
    with pytest.raises(CommandFailed, match=r"exit code 1; last output: \\x0e") as raised:
        run({}, context(script(folder, text), folder))
    assert len(str(raised.value).splitlines()) == 1


def test_the_program_gets_its_context_through_the_environment(folder: Path) -> None:
    text = "print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('DISTEXP_')}))"
    result = run({}, context(script(folder, text), folder, attempt=3, device="cuda:0", gpus=2))
    assert Path(str(result.pop("DISTEXP_RESULT"))).is_absolute()
    assert Path(str(result.pop("DISTEXP_REPORT"))).is_absolute()
    assert result == {
        "DISTEXP_SEED": "7",
        "DISTEXP_OUTPUT_DIR": str(folder),
        "DISTEXP_RUN_DIR": str(folder / "run"),
        "DISTEXP_CHECKPOINT_DIR": str(folder / "ckpt"),
        "DISTEXP_ATTEMPT": "3",
        "DISTEXP_DEVICE": "cuda:0",
        "DISTEXP_GPUS": "2",
    }


def test_lines_with_a_step_are_reports_printed_or_in_a_file_of_their_own(folder: Path) -> None:
    text = """print('{"step": 1, "total": 9, "acc": 0.5}')
print('{"acc": 1, "step": true}')
with open(os.environ['DISTEXP_REPORT'], 'a') as file: file.write('{"step": 2, "loss": 3}\\nodd\\n{"step": 3}')
print('{"acc": 2}')"""
    reports: list[tuple[object, ...]] = []
    made = context(script(folder, text), folder, on_report=lambda *report: reports.append(report))
    assert run({}, made) == {"acc": 2}
    shown = [(1, 9, {"acc": 0.5}), (2, None, {"loss": 3}), (3, None, {})]  # the last line has no end
    assert sorted(reports, key=lambda each: each[0]) == shown


def test_the_last_object_reported_to_the_file_is_the_result_if_the_program_gives_no_other(
    folder: Path,
) -> None:
    reporting = """with open(os.environ['DISTEXP_REPORT'], 'a') as file:
    file.write('{"step": 1, "acc": 0.5}\\nodd\\n{"step": 2, "acc": 0.9}')
print('trained')"""
    assert run({}, context(script(folder, reporting), folder)) == {"step": 2, "acc": 0.9}
    printing = reporting + """\nprint('{"acc": 1}')"""
    assert run({}, context(script(folder, printing), folder)) == {"acc": 1}
    writing = printing + """\nopen(os.environ['DISTEXP_RESULT'], 'w').write('{"acc": 2}')"""
    assert run({}, context(script(folder, writing), folder)) == {"acc": 2}


def test_a_metric_may_be_called_like_a_parameter_of_report(folder: Path) -> None:
    text = """print('{"step": 1, "self": 2}')
sys.stdout.write('x' * 300_000)
print('\\n{"acc": 1}')"""
    reports: list[tuple[object, ...]] = []
    made = context(script(folder, text), folder, on_report=lambda *report: reports.append(report))
    assert run({}, made) == {"acc": 1}
    assert reports == [(1, None, {"self": 2})]


def test_outputs_are_passed_on_and_standard_input_is_empty(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "print('out', sys.stdin.read())\nprint('é error', file=sys.stderr)\nprint('{}')"
    command = "env PYTHONIOENCODING=utf-8 " + script(folder, text)
    assert run({}, context(command, folder)) == {}
    words = shlex.join(arguments({}, context(command, folder)))
    captured = capfd.readouterr()
    assert captured.out == f"# runs {words}\nout \n{{}}\n"
    assert captured.err == "é error\n"


def test_a_large_output_does_not_block_the_program(folder: Path) -> None:
    text = "sys.stderr.write('x' * 3_000_000)\nsys.stdout.write('y' * 3_000_000)\nprint('\\n{\"acc\": 1}')"
    assert run({}, context(script(folder, text), folder)) == {"acc": 1}


def test_an_exit_code_is_reported_with_the_last_line(folder: Path) -> None:
    text = "print('{\"acc\": 1}')\nfor i in range(30): print('line', i, file=sys.stderr)\nsys.exit(3)"
    with pytest.raises(CommandFailed) as failure:
        run({}, context(script(folder, text), folder))
    name = Path(sys.executable).name
    assert str(failure.value) == f"{name}: exit code 3; last output: line 29"


def test_a_signal_is_reported_by_name(folder: Path) -> None:
    with pytest.raises(
        CommandFailed, match=r"killed by SIGKILL, perhaps for want of memory, without output$"
    ):
        run({}, context(script(folder, "os.kill(os.getpid(), 9)"), folder))


def test_a_program_without_a_result_returns_none(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run({}, context(script(folder, "print('acc 0.9')"), folder)) is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("[1, 2]", [1, 2]),
        ("0.93\n", 0.93),
        ("{'acc': 0.9}", "{'acc': 0.9}"),
        ("\ufeff{}", {}),
        ("null", {"acc": 1}),
        ("", {"acc": 1}),
    ],
)
def test_a_result_file_in_any_form_is_kept(folder: Path, text: str, result: object) -> None:
    program = f"open(os.environ['DISTEXP_RESULT'], 'w').write({text!r})\nprint('{{\"acc\": 1}}')"
    assert run({}, context(script(folder, program), folder)) == result


def test_a_program_that_does_not_exist_is_named(folder: Path) -> None:
    with pytest.raises(
        CommandFailed, match=r"^no_such_program: cannot be started \(No such file or directory\)$"
    ):
        run({}, context("no_such_program --seed {seed}", folder))


@pytest.mark.parametrize(("program", "hint"), [("train.py", "python train.py"), ("./go.sh", "bash ./go.sh")])
def test_of_a_script_that_is_no_program_it_is_said_what_runs_it(
    folder: Path, program: str, hint: str
) -> None:
    with pytest.raises(CommandFailed) as failure:
        run({}, context(f"{program} --lr 1", folder))
    assert str(failure.value) == f"{program}: cannot be started (No such file or directory); write {hint}"


def test_a_request_to_stop_lets_the_program_save_and_end(folder: Path) -> None:
    text = (
        "import signal\n"
        "def save(*_): open('{folder}/saved', 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open('{folder}/started', 'w').close()\n"
        "while True: time.sleep(0.1)\n"  # a signal that comes just before a sleep is heard after it
    ).replace("{folder}", str(folder))
    stopping = context(script(folder, text), folder, stop_requested=(folder / "started").exists)
    with pytest.raises(Context.Stopped, match=r"^the command was told to stop and has ended$"):
        run({}, stopping)
    assert (folder / "saved").exists()


def test_a_request_to_stop_ends_what_a_shell_script_waits_for(folder: Path) -> None:
    sleeper = script(folder, f"open(r'{folder}/pid', 'w').write(str(os.getpid()) + '.')\ntime.sleep(600)")
    (folder / "run.sh").write_text(
        f"{sleeper.replace('python', shlex.quote(sys.executable), 1)}\necho done\n"
    )
    pid = folder / "pid"
    stopping = context(
        f"sh {shlex.quote(str(folder / 'run.sh'))}",
        folder,
        stop_requested=lambda: pid.exists() and pid.read_text().endswith("."),
    )
    with pytest.raises(Context.Stopped):
        run({}, stopping)
    left = int(pid.read_text().rstrip("."))
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE


def test_a_process_left_behind_does_not_hold_the_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distexp.experiments.command.PIPE_GRACE_S", 0.1)
    text = (
        "import subprocess\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(json.dumps({'step': 1, 'pid': left.pid}), flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
    )
    gate = folder / "gate"  # opened once that was read
    made = context(script(folder, text, "{gate}"), folder, on_report=lambda *report: gate.touch())
    result = run({"gate": str(gate)}, made)
    left = psutil.Process(int(result["pid"]))
    left.kill()
    for thread in threading.enumerate():
        if type(thread).__name__ == "_Output":
            thread.join()
            thread.source.close()  # type: ignore[attr-defined]


def test_placeholders_may_name_the_context_which_wins_over_parameters(folder: Path) -> None:
    command = script(
        folder, "print(json.dumps({'words': sys.argv[1:]}))", "{seed} {attempt} {device} {output_dir}"
    )
    assert run({"seed": 99}, context(command, folder)) == {"words": ["7", "1", "cpu", str(folder)]}


@pytest.mark.parametrize(
    ("text", "cause", "message"),
    [
        ("os.kill(os.getpid(), 9)", Cause.CRASH, "killed by SIGKILL, perhaps for want of memory, without"),
        ("os.kill(os.getpid(), 11)", Cause.CRASH, "killed by SIGSEGV, without output"),
        ("sys.exit(137)", Cause.CRASH, "exit code 137: what it ran was killed by SIGKILL, perhaps for want"),
        ("sys.exit(3)", Cause.ERROR, "exit code 3, without output"),
    ],
)
def test_a_kill_is_a_crash_and_an_exit_code_an_error(
    folder: Path, text: str, cause: Cause, message: str
) -> None:
    with pytest.raises(CommandFailed) as failure:
        run({}, context(script(folder, text), folder))
    assert failure.value.failure_cause is cause
    assert str(failure.value).startswith(f"{Path(sys.executable).name}: {message}")


def test_output_without_a_line_end_is_passed_on_while_the_program_runs(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "print('50%', end='\\r')\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\nprint('{}')"
    seen, gate = "", folder / "gate"

    def is_shown() -> bool:
        nonlocal seen
        seen += capfd.readouterr().out
        if seen.endswith("\n50%\r"):
            gate.touch()
        return False

    run({"gate": str(gate)}, context(script(folder, text, "{gate}"), folder, stop_requested=is_shown))
    assert gate.exists()


def test_the_last_state_of_a_progress_bar_is_quoted(folder: Path) -> None:
    text = "print('done')\nprint('1%\\r2%\\r3%\\n ', file=sys.stderr)\nsys.exit(1)"
    with pytest.raises(CommandFailed, match=r"exit code 1; last output: 3%$"):
        run({}, context(script(folder, text), folder))


def test_parameters_lie_in_the_run_folder_before_the_program_starts(folder: Path) -> None:
    command = script(
        folder, "print(open(os.path.join(sys.argv[1], 'params.json')).read().replace('\\n', ''))"
    )
    result = run({"lr": 0.1, "model": {"width": 4}}, context(command + "{run_dir}", folder))
    assert result == {"lr": 0.1, "model": {"width": 4}, "seed": 7}


def test_python_is_this_interpreter_or_as_the_sweep_says(folder: Path) -> None:
    here = context("python {x}", folder)
    assert arguments({"x": 1}, here) == [sys.executable, "1"]
    assert arguments({"x": 1}, replace(here, python="/opt/env/bin/python -u")) == [
        "/opt/env/bin/python", "-u", "1",
    ]  # fmt: skip
    assert arguments({"x": 1}, replace(here, command="prog python"))[1:] == ["python"]


@pytest.mark.skipif(os.name == "nt", reason="a script that the shell sh runs")
@pytest.mark.parametrize("command", ["tool", "sh -c tool", "env A=1 tool"])
def test_programs_beside_the_python_that_runs_are_found_whatever_else_is_on_the_path(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = folder / "bin" / "tool"
    for path in (program, folder / "other" / "tool"):
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\necho \'{{"found": "{path.parent.name}"}}\'\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder / "other"), os.environ["PATH"]]))
    python = shlex.quote(str(folder / "bin" / "python"))
    assert run({}, context(command, folder, python=python)) == {"found": "bin"}
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], str(folder / "bin")]))
    assert run({}, context(command, folder, python=python)) == {"found": "other"}


def test_an_environment_that_is_active_stays_so_unless_the_sweep_names_a_python(tmp_path: Path) -> None:
    path = os.pathsep.join([str(tmp_path / "proj" / "bin"), os.defpath])
    plain = {"PATH": path}
    active = plain | {"CONDA_PREFIX": str(tmp_path / "proj")}

    def first(environment: dict[str, str], python: str | None) -> str:
        return with_python_found(environment, python)["PATH"].split(os.pathsep)[0]

    mine, theirs = os.path.dirname(sys.executable), str(tmp_path / "proj" / "bin")
    assert (first(plain, None), first(active, None)) == (mine, theirs)
    other = str(tmp_path / "env" / "bin" / "python")
    assert first(active, f"{shlex.quote(other)} -u") == os.path.dirname(other)
    assert first(active, os.path.join("env", "python3")) == os.path.abspath("env")
    for named in ("python3", f"{shlex.quote(str(tmp_path / 'conda'))} run -n x python"):
        assert first(active, named) == theirs


def test_a_parameter_called_run_dir_keeps_its_meaning(folder: Path) -> None:
    assert arguments({"run_dir": "mine"}, context("prog {run_dir}", folder)) == ["prog", "mine"]
    assert arguments({}, context("prog {run_dir}", folder)) == ["prog", str(folder / "run")]


@pytest.mark.parametrize("has_seeds", [False, True])
def test_the_seed_is_among_all_arguments_when_the_sweep_says_which(folder: Path, has_seeds: bool) -> None:
    words = arguments({"lr": 0.1}, context("prog {args}", folder, has_seeds=has_seeds))
    assert words == ["prog", "--lr=0.1", *(["--seed=7"] if has_seeds else [])]


def test_backslashes_separate_folders_on_windows_alone(folder: Path) -> None:
    command = r'C:\tools\train.exe "D:\my data" {name} # no comment'
    words = ["C:\\tools\\train.exe", "D:\\my data", "x y", "#", "no", "comment"]
    assert arguments({"name": "x y"}, context(command, folder), windows=True) == words
    assert arguments({}, context(r"my\ program", folder), windows=False) == ["my program"]
