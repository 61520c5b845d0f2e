"""The programs, the sweep and the conversations that the pages show, run for real."""

import contextlib
import csv
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distexp.manager.manager import ExperimentManager
from distexp.queue.records import TaskRecord
from distexp.wire import server
from distexp.wire.framing import decode_request, encode
from distexp.wire.messages import AnyReply, AnyRequest
from tests.live_manager import Folder, RawClient
from tests.pages import PROJECT, blocks, page, rows, section, spans

README, PROTOCOL, DESIGN = page("README.md"), page("docs/protocol.md"), page("docs/design.md")
EXPERIMENTS = page("docs/experiments.md")
PHASE = "exp6_learning_rate"
FIRST = f"{PHASE}_0_42"
GONE_BY_RUN = {"lease_id", "sweep_id", "token", "version", "instance", "machine", "nonce"} | {
    *("host", "pid", "memory_mib"),
}


@dataclass
class Tunnel:
    """Passes connections on to a manager, as `ssh -L` does, and keeps what passed."""

    to_port: int
    passed: list[bytes] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=self._accept, args=(server,), daemon=True).start()
            yield server.getsockname()[1]

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self.to_port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                self.passed.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def my_experiment(root: Path) -> Folder:
    """A folder with the function and the sweep of docs/experiments.md."""
    function = next(block for block in blocks(EXPERIMENTS, "python") if block.startswith("def run("))
    (root / "configs").mkdir(parents=True)
    (root / "my_experiment.py").write_text(function, encoding="utf-8")
    (root / "configs" / "config_exp6.yaml").write_text(blocks(EXPERIMENTS, "yaml")[0], encoding="utf-8")
    return Folder(root)


def run_worker(workdir: Path, port: int, **environment: str) -> None:
    words = ["localhost", str(port), "--device", "cpu", "--workdir", str(workdir)]
    subprocess.run(
        [sys.executable, str(PROJECT / "experiment_runner_gpu.py"), *words],
        env=os.environ | environment,
        check=True,
        timeout=100,
    )


@pytest.fixture
def mine(tmp_path: Path) -> Folder:
    return my_experiment(tmp_path / "mine")


@contextmanager
def serving(folder: Folder) -> Iterator[ExperimentManager]:
    with folder.serving(configs="configs/config_exp6.yaml") as manager:
        yield manager


def test_the_example_of_readme_leaves_the_row_that_is_shown(tmp_path: Path) -> None:
    function = next(block for block in blocks(README, "python") if block.startswith("def run("))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(blocks(README, "yaml")[0], encoding="utf-8")
    (tmp_path / "my_experiment.py").write_text(function, encoding="utf-8")
    words = ["run", "--device", "cpu", "--port", "0"]
    subprocess.run([sys.executable, PROJECT / "experiment_manager.py", *words], cwd=tmp_path, check=True)
    (shown,) = csv.DictReader(blocks(README, "csv")[0].splitlines())
    made = Folder(tmp_path).rows("results_exp1_lr")
    assert len(made) == 18
    row = next(row for row in made if row["task_id"] == shown["task_id"])
    assert {name: row[name] for name in shown} == shown


def test_the_result_of_a_script_in_words_is_what_the_program_of_the_page_makes_of_it(tmp_path: Path) -> None:
    shown = section(EXPERIMENTS, "A script that prints its result in words")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(blocks(shown, "yaml")[0], encoding="utf-8")
    (tmp_path / "result.py").write_text(blocks(shown, "python")[0], encoding="utf-8")
    lines = [
        "import sys",
        "print('Epoch: 1, loss=0.50')",
        "print('Epoch: 2, loss=4e-1')",
        "print({'val/acc': 0.9, 'norm': float('nan')}, '1/10 (3%)')",
        "print('lr', sys.argv[2])",
    ]
    (tmp_path / "train.py").write_text("\n".join(lines), encoding="utf-8")
    words = ["run", "--device", "cpu", "--port", "0"]
    subprocess.run([sys.executable, PROJECT / "experiment_manager.py", *words], cwd=tmp_path, check=True)
    with (tmp_path / "results_words" / "final_results.csv").open(newline="", encoding="utf-8") as file:
        found = [[row[name] for name in ("Epoch", "loss", "val/acc", "norm")] for row in csv.DictReader(file)]
    assert found == [["2.0", "0.4", "0.9", "nan"]] * 4


def test_the_result_of_a_script_that_writes_a_file_is_what_stands_there(tmp_path: Path) -> None:
    shown = section(EXPERIMENTS, "A script that writes its results to a file")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config_exp1.yaml").write_text(blocks(shown, "yaml")[0], encoding="utf-8")
    (tmp_path / "last_row.py").write_text(blocks(shown, "python")[0], encoding="utf-8")
    lines = [
        "import json, pathlib, sys",
        "out = pathlib.Path(sys.argv[2])",
        "(out / 'metrics.json').write_text(json.dumps({'words': sys.argv[3:], 'acc': 0.9}, indent=2))",
        "(out / 'log.csv').write_text('epoch,acc,best\\n1,0.5,False\\n2,0.12345678901234,True\\n')",
    ]
    (tmp_path / "train.py").write_text("\n".join(lines), encoding="utf-8")
    words = ["run", "--device", "cpu", "--port", "0"]
    subprocess.run([sys.executable, PROJECT / "experiment_manager.py", *words], cwd=tmp_path, check=True)
    made = Folder(tmp_path).rows("results_files")
    found = {row["task_id"]: [row.get(name) for name in ("words", "acc", "epoch", "best")] for row in made}
    assert len(found) == 8
    assert found["json_file_0_1"] == ['["--lr=0.1", "--seed=1"]', "0.9", "", ""]
    assert found["csv_file_1_2"] == ["", "0.12345678901234", "2", "True"]


def test_the_status_client_of_readme_works_as_printed(mine: Folder) -> None:
    client = next(block for block in blocks(README, "python") if "sock.recv(1024)" in block)
    with serving(mine) as manager:
        printed = run_client(client, mine, manager)
    shown = next(block for block in blocks(README, "text") if block.startswith("{'total'"))
    names = re.findall(r"'(\w+)':", shown)
    assert re.findall(r"'(\w+)':", printed) == names
    assert "'total': 6, 'pending': 6" in printed


def overhear(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list that fills with what managers here are asked and answer."""
    said: list[dict[str, Any]] = []

    def decode(line: bytes) -> AnyRequest:
        said.append(json.loads(line))
        return decode_request(line)

    def encode_too(reply: AnyReply) -> bytes:
        line = encode(reply)
        said.append(json.loads(line))
        return line

    monkeypatch.setattr(server, "decode_request", decode)
    monkeypatch.setattr(server, "encode", encode_too)
    return said


def test_the_experiment_of_the_pages_makes_the_journey_as_it_is_told(
    mine: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = overhear(monkeypatch)
    with serving(mine) as manager:
        run_worker(mine.root, manager.port)
        assert manager.dispatcher.status().progress == "6/6 (100.0%)"
    messages = [each for each in said if each["type"] != "heartbeat"]
    told = [json.loads(line) for block in blocks(DESIGN, "json") for line in block.splitlines()]
    told = [each for each in told if "type" in each and each["type"] != "heartbeat"]
    assert [comparable(each) for each in messages[:4]] == [comparable(each) for each in told]
    compare_row(mine)
    compare_journal(mine)
    for line in (f"Assigned task {FIRST} to cpu0", f"Task {FIRST} completed by cpu0"):
        assert line in DESIGN
        assert line in mine.log()
    run_folder = re.search(rf"results_{PHASE}/runs/\w+/log.txt", DESIGN)
    assert run_folder
    assert (mine.root / run_folder[0]).exists()


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a mark in place of what differs between any two runs."""
    kept = {name: "?" if name in GONE_BY_RUN else value for name, value in message.items()}
    if isinstance(kept.get("next"), dict):
        kept["next"] = comparable(kept["next"])
    if kept.get("seen"):
        kept["seen"] = {**kept["seen"], "offset": "?"}
    return kept


def compare_row(mine: Folder) -> None:
    told, *_ = csv.DictReader(blocks(DESIGN, "csv")[0].splitlines())
    made = next(row for row in mine.rows(f"results_{PHASE}") if row["task_id"] == FIRST)
    assert list(made) == list(told)
    differ = {"host", "python_version", "started_utc", "duration_s"}
    assert {n: v for n, v in made.items() if n not in differ} == {
        n: v for n, v in told.items() if n not in differ
    }


def compare_journal(mine: Folder) -> None:
    told = json.loads(blocks(DESIGN, "json")[-1])
    with contextlib.closing(
        sqlite3.connect(mine.root / ".experiment_manager" / "journal.sqlite3")
    ) as journal:
        assert journal.execute("SELECT key FROM tasks").fetchall() == []
    assert tuple(told) == (*TaskRecord.__struct_encode_fields__,)


def test_a_worker_in_another_folder_works_through_a_tunnel_with_the_token(
    tmp_path: Path, mine: Folder
) -> None:
    elsewhere = my_experiment(tmp_path / "elsewhere")
    with serving(mine) as manager:
        tunnel = Tunnel(manager.port)
        with tunnel.open() as port:
            run_worker(elsewhere.root, port, EXPERIMENT_TOKEN=mine.token_text)
    passed = b"".join(tunnel.passed)
    assert len(passed) > 6000
    assert not any(word in passed for word in (b"learning_rate", b"request_task", mine.token.encode()))
    assert len(mine.rows(f"results_{PHASE}")) == 6
    assert not (elsewhere.root / f"results_{PHASE}" / "final_results.csv").exists()
    assert not list((elsewhere.root / ".experiment_spool").glob("[!.]*"))


def run_client(client: str, folder: Folder, manager: ExperimentManager) -> str:
    """Return what a program of the pages prints."""
    return subprocess.run(
        [sys.executable, "-c", client.replace("5000", str(manager.port))],
        cwd=folder.root,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_the_tls_client_of_the_protocol_works_as_printed(mine: Folder) -> None:
    with serving(mine) as manager:
        printed = run_client(blocks(PROTOCOL, "python")[0], mine, manager)
    assert printed == "{'type': 'workers', 'workers': []}\n"


def test_the_client_by_hand_works_through_a_sweep_as_printed(mine: Folder) -> None:
    with serving(mine) as manager:
        printed = run_client(blocks(PROTOCOL, "python")[1], mine, manager)
    assert len(printed.splitlines()) == 6
    assert {row["score"] for row in mine.rows(f"results_{PHASE}")} >= {"142.0", "52.0"}


def test_each_error_of_protocol_is_told_as_it_is_listed(mine: Folder) -> None:
    with serving(mine) as manager:
        for cells in rows(section(PROTOCOL, "Error texts")):
            request, error = spans(cells[0])[0], spans(cells[1])[0]
            if request.startswith("{") and "token" not in request:
                request = request.replace("{", f'{{"token":"{mine.token}",', 1)
            with RawClient(manager.port) as talk:
                talk.socket.sendall(request.encode() + b"\n")
                reply = talk.read()
            pattern = re.escape(error).replace(re.escape("..."), ".*")
            assert reply["type"] == "error"
            assert re.fullmatch(pattern, reply["error"]), (request, reply["error"])


def test_a_worker_called_gpu0_stands_in_the_log_as_readme_shows(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.configure([1, 2])
    with folder.serving() as manager, RawClient(manager.port, token=folder.token, worker_id="gpu0") as talk:
        task = talk.say("request_task")
        talk.say("task_complete", task_id=task["task_id"], result={"score": 1.0})
    log = folder.log()
    for line in (f"Assigned task {task['task_id']} to gpu0", f"Task {task['task_id']} completed by gpu0"):
        assert line in log
        assert line in page("docs/watching.md")
