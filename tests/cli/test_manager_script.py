"""experiment_manager.py, as a user starts it."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import experiment_manager
from distexp.system.process import machine_id
from distexp.wire.messages import DEFAULT_PORT
from distexp.workdir import Workdir
from tests.live_manager import CONFIG, Folder, RawClient
from tests.live_worker import await_began, gated_folder, open_gate, worker_process
from tests.support import poll, silent_port

SCRIPT = Path(experiment_manager.__file__)
PATIENCE_S = 60


class Manager:
    """A manager process of a folder and the port it serves."""

    def __init__(self, folder: Folder, *words: str, port: Sequence[str] = ("--port", "0")) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, *port, "--workdir", folder.root, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"Manager serves 127\.0\.0\.1:(\d+) for ", line):
                self.port = int(found[1])
                return
        raise AssertionError("".join(self.lines))

    def talk(self, name: str, **more: Any) -> RawClient:
        about = {"worker_id": name, "heartbeat_s": 15, "instance": name, "token": self.folder.token}
        return RawClient(self.port, **about | more)

    def end(self) -> tuple[int, str]:
        """Return exit code and the rest of the output once the process has ended."""
        output = self.process.communicate(timeout=PATIENCE_S)[0]
        return self.process.returncode, output


@contextmanager
def started(folder: Folder, *words: str, port: Sequence[str] = ("--port", "0")) -> Iterator[Manager]:
    manager = Manager(folder, *words, port=port)
    try:
        yield manager
    finally:
        manager.process.kill()
        manager.process.communicate()


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit code, output and error output of the script, run in this process."""
    code = experiment_manager.main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def taken() -> Iterator[None]:
    """The default port, held by another program."""
    with ExitStack() as held:

        def is_held() -> bool:
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", DEFAULT_PORT)))
                return True
            return False

        with suppress(AssertionError):  # who has it for so long has it on; another test soon lets it go
            poll(is_held, "the default port", 20)
        yield


@pytest.mark.usefixtures("taken")
def test_where_the_default_port_is_taken_a_manager_takes_a_free_one_and_its_workers_find_it(
    tmp_path: Path,
) -> None:
    folder = gated_folder(tmp_path, "[1, 2]")
    open_gate(tmp_path)
    with started(folder, "--exit-when-done", port=()) as manager:
        assert manager.port != DEFAULT_PORT
        with worker_process(tmp_path) as worker:
            assert worker.code() == 0
        assert manager.end()[0] == 0
    told = f"Port {DEFAULT_PORT} was taken: workers and clients outside of this folder need the port "
    assert f"{told}{manager.port}" in folder.log()
    assert [row["width"] for row in folder.rows()] == ["1", "2"]


@pytest.mark.slow
@pytest.mark.usefixtures("taken")
def test_such_a_port_is_served_again_so_that_workers_that_were_given_it_outlive_a_restart(
    tmp_path: Path,
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    folder = gated_folder(tmp_path / "here", "[1]")
    gated_folder(tmp_path / "elsewhere", "[1]")
    with ExitStack() as running:
        with started(folder, port=()) as first:
            token = {"EXPERIMENT_TOKEN": folder.token_text}
            place = ("localhost", first.port)
            worker = running.enter_context(worker_process(tmp_path / "elsewhere", *place, environment=token))
            await_began(tmp_path / "elsewhere")
            first.process.send_signal(signal.SIGINT)
            assert first.end()[0] == 0
        open_gate(tmp_path / "elsewhere")
        worker.await_words("no manager answers")
        with started(folder, "--exit-when-done", port=()) as second:
            assert second.port == first.port
            assert worker.code() == 0
            assert second.end()[0] == 0
    assert [row["score"] for row in folder.rows()] == ["10"]


def test_managers_that_start_together_each_take_a_port(tmp_path: Path) -> None:
    folders = [Folder(tmp_path / str(number)) for number in range(4)]
    for each in folders:
        each.configure([1])
    with ThreadPoolExecutor(len(folders)) as pool, ExitStack() as running:
        managers = list(pool.map(lambda each: Manager(each, port=()), folders))
        for each in managers:
            running.callback(each.process.communicate)
            running.callback(each.process.kill)
        assert len({each.port for each in managers}) == len(folders)


def test_an_address_of_another_machine_is_named_as_such(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "--workdir", folder.root, "--host", "192.0.2.1")
    wanted = "--host 192.0.2.1: no address of this machine; give one of its own, or 0.0.0.0 for all\n"
    assert (code, err) == (2, f"error: {wanted}")


def test_a_running_manager_answers_status_and_keeps_folder_and_port(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(folder) as manager:
        code, out, _ = call(capsys, "status", "--workdir", folder.root)
        assert (code, json.loads(out)["progress"]) == (0, "0/3 (0.0%)")
        assert call(capsys, "status", "localhost", manager.port, "--workdir", folder.root)[0] == 0
        second = ["--workdir", folder.root, "--port", 0]
        assert call(capsys, *second)[::2] == (
            2,
            f"error: {folder.root}: a manager is already running in this folder "
            f"(pid {manager.process.pid}, port {manager.port}). "
            "Stop it, or use another folder with --workdir\n",
        )
        other = Folder(tmp_path / "other")
        other.configure([1])
        code, _, err = call(capsys, "--workdir", other.root, "--port", manager.port)
        assert (code, err) == (
            2,
            f"error: 127.0.0.1:{manager.port}: Address already in use. "
            "Stop the program that uses this port, or choose another with --port\n",
        )
    code, out, err = call(capsys, "status", "--workdir", folder.root)
    assert (code, json.loads(out)["progress"]) == (0, "0/3 (0.0%)")
    assert err == "No manager runs in this folder: this is what its files say.\n"
    with silent_port() as port:
        code, _, err = call(capsys, "status", "localhost", port, "--workdir", folder.root)
    assert (code, err) == (
        2,
        f"error: no manager answers at localhost:{port} (Connection refused); start one there "
        "with `python experiment_manager.py manager`, or name another host and port\n",
    )


def test_broken_configs_end_it_with_every_problem(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.configure(7)
    folder.configure([1, 1], CONFIG.replace("exp1", "exp2"), "config_exp2.yaml")
    code, out, err = call(capsys, "--workdir", folder.root, "--port", 0)
    assert (code, out) == (2, "")
    assert [line.split(":")[:2] for line in err.removeprefix("error: ").splitlines()] == [
        ["configs/config_exp1.yaml", "5"],
        ["configs/config_exp2.yaml", "5"],
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl+C", "SIGTERM"])
def test_a_signal_stops_it_cleanly_whatever_has_failed(folder: Folder, number: signal.Signals) -> None:
    with started(folder) as manager, manager.talk("gpu0") as talk:
        task = talk.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        talk.say("task_failed", **named, cause="out_of_memory", error="no memory")
        manager.process.send_signal(number)
        code, output = manager.end()
        assert talk.is_ended()
    assert code == 0
    assert output.splitlines()[-1].endswith("Manager stopped at 0/3 (0.0%)")
    assert "Traceback" not in output


@pytest.mark.parametrize("fails", [False, True])
def test_exit_when_done_tells_whether_a_task_failed(folder: Folder, fails: bool) -> None:
    folder.configure([1, 2])
    with started(folder, "--exit-when-done") as manager, manager.talk("gpu0") as talk:
        task = talk.say("request_task")
        named = {"lease_id": task["lease_id"], "key": task["key"]}
        if fails:
            talk.say("task_failed", **named, cause="out_of_memory", error="no memory")
        else:
            talk.say("task_complete", **named, result={"score": 1})
        task = talk.say("request_task")
        done = talk.say("task_complete", key=task["key"], result={"score": 1}, next=True)
        assert done["next"]["reason"] == "done"
        talk.socket.close()
        code, output = manager.end()
    assert code == int(fails)
    lines = [line[20:].rstrip() for line in [*manager.lines, *output.splitlines()]]
    assert "Task exp1_vary_width_1_42 completed by gpu0" in lines
    assert sorted(lines) == sorted(folder.log())


def test_a_killed_manager_knows_after_its_restart_what_had_happened(folder: Folder) -> None:
    with started(folder) as manager, manager.talk("gpu0") as one, manager.talk("gpu1") as two:
        failed = one.say("request_task")
        running = two.say("request_task")
        one.say("task_failed", lease_id=failed["lease_id"], key=failed["key"], error="boom")
        done = one.say("request_task")
        one.say("task_complete", key=done["key"], result={"score": 1})
        manager.process.kill()
        manager.end()
    with (
        started(folder) as manager,
        manager.talk("gpu1") as two,
        RawClient(manager.port, token=folder.token) as user,
    ):
        assert "Marked 1 tasks as already completed" in folder.log()
        known = {task["key"]: task for task in user.say("tasks")["tasks"]}
        wanted = {
            done["key"]: ["complete", 0],
            failed["key"]: ["pending", 1],
            running["key"]: ["assigned", 0],
        }
        assert {key: [task["state"], task["failures"]] for key, task in known.items()} == wanted
        assert known[failed["key"]]["attempts"] == known[running["key"]]["attempts"] == 1
        named = {"lease_id": running["lease_id"], "key": running["key"]}
        assert two.say("heartbeat", **named)["stop"] is False
        assert two.say("task_complete", **named, result={"score": 1}) == {"type": "ack"}
    assert sorted(row["task_id"] for row in folder.rows()) == sorted([done["task_id"], running["task_id"]])


def test_a_task_of_a_process_that_was_killed_is_assigned_again_at_once(folder: Folder) -> None:
    folder.configure([1])
    with started(folder) as manager:
        holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        nonce = Workdir(folder.root).read_nonce()
        here = {"machine": machine_id(), "nonce": nonce, "pid": holder.pid}
        with manager.talk("gpu0", **here) as one:
            task = one.say("request_task")
            holder.kill()
            holder.communicate()
        assert manager.process.stdout is not None
        lost = next(line for line in manager.process.stdout if "lost by gpu0" in line)
        assert "its process is gone (loss 1 of 5, now pending)" in lost
        with manager.talk("gpu1") as two:
            again = two.say("request_task")
    assert (again["key"], again["attempt"]) == (task["key"], 2)


def test_the_lease_of_a_worker_that_died_with_its_manager_ends_at_the_restart(folder: Folder) -> None:
    folder.configure([1])
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with started(folder) as manager:
        about = {"machine": machine_id(), "nonce": Workdir(folder.root).read_nonce(), "pid": holder.pid}
        with manager.talk("gpu0", heartbeat_s=15, instance="g0", **about) as one:
            task = one.say("request_task")
            manager.process.kill()
            manager.process.wait()
    holder.kill()
    holder.communicate()
    with started(folder) as manager:
        assert manager.process.stdout is not None
        lost = next(line for line in manager.process.stdout if "lost by gpu0" in line)
        assert "its process is gone (loss 1 of 5, now pending)" in lost
        with manager.talk("gpu1") as two:
            again = two.say("request_task")
    assert (again["key"], again["attempt"]) == (task["key"], 2)


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.with_name("experiment_runner_gpu.py")])
def test_without_its_packages_a_script_prints_the_commands_that_help(script: Path) -> None:
    ended = subprocess.run([sys.executable, "-S", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "./launch_distributed.sh" in ended.stderr
    assert "python -m pip install -r requirements.txt" in ended.stderr
