"""`run`: a manager and its workers, started and ended together."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from distexp.cli.main import main
from distexp.launcher import local_run as local_run_module
from distexp.launcher.local_run import GroupProcess, LocalRun, ProcessGroup, read_address
from distexp.workdir import Workdir
from tests.live_worker import CONFIG, RUNNER, gated_folder, open_gate
from tests.stand_in.machine import environment, gpu, write_scenario
from tests.support import poll

USES_TORCH = "import torch\ndef run(params, context):\n    return {'score': params['width']}\n"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_where_torch_can_use_no_gpu_cpu_workers_finish_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = gated_folder(tmp_path, "[1, 2]", USES_TORCH)
    write_scenario(tmp_path / "machine.json", gpu(0), gpu(1))
    for name, value in environment(tmp_path / "machine.json", tmp_path / "gpu-claims").items():
        monkeypatch.setenv(name, value)
    words = ("--workdir", str(tmp_path), "--port", "0", "--exit-when-done")
    manager = [sys.executable, str(RUNNER.with_name("experiment_manager.py")), *words]
    worker = [sys.executable, str(RUNNER), "--device", "auto"]
    with ProcessGroup() as group:
        local_run = LocalRun(group, tmp_path, manager, worker, 2)
        poll(lambda: local_run.turn(time.monotonic()), "the end of the sweep", 90)
        assert local_run.exit_code == 0
    assert {(row["worker"][:3], row["score"]) for row in folder.rows()} == {("cpu", "1"), ("cpu", "2")}
    assert (
        "No worker can use its GPU, so CPU workers are started: worker 0: exit code 2, "
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_run_ends_with_the_reason_when_no_gpu_here_can_run_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    needs = CONFIG.replace('"experiment:run"', '"experiment:run", gpu_model: [H100]')
    gated_folder(tmp_path, "[1, 2]", config=needs)
    write_scenario(tmp_path / "machine.json", gpu(0), gpu(1, name="Tesla T4"))
    for name, value in environment(tmp_path / "machine.json", tmp_path / "gpu-claims").items():
        monkeypatch.setenv(name, value)
    assert main(["run", "--workdir", str(tmp_path), "--port", "0"]) == 1
    shown = capfd.readouterr()
    why = "needs a GPU of the model H100, and the workers that are connected have NVIDIA A100, Tesla T4"
    assert f"Stopping with 2 tasks pending: phase exp1_vary_width {why}" in shown.out + shown.err
    *_, reason, what_next = shown.err.splitlines()
    assert reason == f"2 tasks cannot run: phase exp1_vary_width {why}"
    assert what_next.endswith("goes on with the 2 tasks that are left, once the cause is corrected")


def test_the_output_of_its_workers_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_run_module, "MAX_BYTES", 2000)
    monkeypatch.setattr(local_run_module, "LOOK_S", 0.0)
    gated_folder(tmp_path, str([*range(40)]))
    (tmp_path / "gate").touch()
    words = ("--workdir", str(tmp_path), "--port", "0", "--exit-when-done")
    manager = [sys.executable, str(RUNNER.with_name("experiment_manager.py")), *words]
    worker = [sys.executable, str(RUNNER), "--device", "cpu"]
    with ProcessGroup() as group:
        local_run = LocalRun(group, tmp_path, manager, worker, 1)
        poll(lambda: local_run.turn(time.monotonic()), "the end of the sweep", 90)
        assert local_run.exit_code == 0
    [log] = Workdir(tmp_path).state.glob("worker-*.log")
    assert "bytes of output are left out here" in log.read_text()


def test_ctrl_c_has_reached_the_workers_when_it_is_said_that_they_finish_their_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated_folder(tmp_path, "[1]")
    manager = [sys.executable, str(RUNNER.with_name("experiment_manager.py"))]
    manager += ["--workdir", str(tmp_path), "--port", "0"]
    happened, send = list[str](), GroupProcess.send
    with ProcessGroup() as group:
        worker = [sys.executable, str(RUNNER), "--device", "cpu"]
        local_run = LocalRun(group, tmp_path, manager, worker, 1)
        poll(lambda: bool(local_run.turn(time.monotonic())) or local_run.has_workers, "a worker", 90)

        def passed_on(process: GroupProcess, number: signal.Signals) -> None:
            happened.append(process.name)
            send(process, number)
            open_gate(tmp_path)  # the worker may have its task by now

        monkeypatch.setattr(GroupProcess, "send", passed_on)
        monkeypatch.setattr(local_run_module, "say", happened.append)
        signal.raise_signal(signal.SIGINT)
        poll(lambda: local_run.turn(time.monotonic()), "the end of the run", 90)
    assert happened[0] == "worker 0"
    assert happened[1].startswith("Stopping: workers finish their tasks")


def test_a_page_is_told_of_and_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gated_folder(tmp_path, "[1]")
    script = [sys.executable, str(RUNNER.with_name("experiment_manager.py"))]
    manager = [*script, "manager", "--workdir", str(tmp_path), "--port", "0", "--exit-when-done"]
    page = [*script, "web", "--workdir", str(tmp_path), "--port", "0"]
    told = list[str]()
    with ProcessGroup() as group:
        local_run = LocalRun(
            group, tmp_path, manager, [sys.executable, str(RUNNER), "--device", "cpu"], 1, page=page
        )

        def has_ended() -> bool:
            told.append(capsys.readouterr().err)
            if "Live page: http://127.0.0.1:" in "".join(told):
                open_gate(tmp_path)  # the sweep may not be over before
            return local_run.turn(time.monotonic())

        poll(has_ended, "the end of the sweep, once the page was told of", 90)
        assert local_run.exit_code == 0
    log = Workdir(tmp_path).state / "web.log"
    assert sys.platform == "win32" or log.stat().st_mode & 0o777 == 0o600


def test_an_address_is_of_one_manager_though_the_next_replaces_it_just_then(tmp_path: Path) -> None:
    info = Workdir(tmp_path).info
    info.parent.mkdir()
    is_over = threading.Event()

    def write(port: int) -> None:
        half = tmp_path / "half"
        half.write_text(json.dumps({"pid": 1, "host": "127.0.0.1", "port": port}))
        os.utime(half, ns=(port, port))
        os.replace(half, info)

    def write_on() -> None:
        while not is_over.is_set():
            for port in (1, 2):
                write(port)

    write(1)
    writer = threading.Thread(target=write_on)
    writer.start()
    seen = set[tuple[int, int]]()

    def has_seen_both() -> bool:
        found = [read_address(tmp_path) for _ in range(2000)]
        seen.update((each.port, each.written_ns) for each in found if each)
        return len(seen) > 1

    try:
        poll(has_seen_both, "both addresses")
    finally:
        is_over.set()
        writer.join()
    assert seen == {(1, 1), (2, 2)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"pid": 1, "port": 5000}',
        '{"pid": Infinity, "host": "127.0.0.1", "port": 5000}',
        '{"pid": -1, "host": "127.0.0.1", "port": 5000}',
        '{"pid": 1, "host": "127.0.0.1", "port": 70000}',
    ],
)
def test_a_damaged_address_is_none(tmp_path: Path, text: str) -> None:
    Workdir(tmp_path).make_state()
    Workdir(tmp_path).info.write_text(text, encoding="utf-8")
    assert read_address(tmp_path) is None


@pytest.mark.parametrize(("worker_code", "is_cut_short"), [(0, False), (1, True)])
def test_a_manager_that_waits_for_others_to_hear_the_end_is_given_time_where_all_workers_have_heard_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_code: int, is_cut_short: bool
) -> None:
    monkeypatch.setattr(local_run_module, "FINISH_S", 0.0)
    workdir = Workdir(tmp_path)
    workdir.make_state()
    tells = f"import pathlib, sys, time; pathlib.Path({str(workdir.info)!r}).write_text(sys.argv[1])"
    told = json.dumps({"pid": 1, "host": "127.0.0.1", "port": 5000})
    ends_later = f"{tells}\nwhile not pathlib.Path('heard').exists(): time.sleep(0.01)"
    worker = [sys.executable, "-c", f"raise SystemExit({worker_code})"]
    monkeypatch.chdir(tmp_path)
    with ProcessGroup() as group:
        run = LocalRun(group, tmp_path, [sys.executable, "-c", ends_later, told], worker, 1)
        poll(lambda: run.turn(time.monotonic()) or run._workers_ended_s is not None, "the worker's end")
        run.turn(time.monotonic())
        Path("heard").touch()
        poll(lambda: run.turn(time.monotonic()), "the manager's end")
    assert bool(run.why_cut_short) is is_cut_short
