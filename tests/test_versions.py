"""Manager and worker of different versions: they work together, or one line says which side to update.

`recorded/version_0_1_0.tar.xz` is the source of version 0.1.0.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distexp import __version__
from distexp.errors import ProtocolError
from distexp.system.process import host_name
from distexp.task import State
from distexp.wire.framing import decode_request
from distexp.wire.messages import Heartbeat, Progress, RequestTask, TaskComplete, TaskFailed
from tests.live_manager import Folder, RawClient
from tests.live_worker import gated_folder, open_gate, worker_process

RECORDED = Path(__file__).parent / "recorded" / "version_0_1_0.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of version 0.1.0."""
    folder = tmp_path_factory.mktemp("version_0_1_0")
    with tarfile.open(RECORDED) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Folder:
    open_gate(tmp_path)
    return gated_folder(tmp_path, "[1, 2, 3]")


@contextmanager
def manager_of(old: Path, folder: Folder) -> Iterator[int]:
    """A manager of version 0.1.0; yields its port."""
    command = [sys.executable, old / "experiment_manager.py", "--port", "0", "--exit-when-done"]
    with subprocess.Popen(command, cwd=folder.root, stdout=subprocess.PIPE, text=True) as manager:
        assert manager.stdout is not None
        line = next(line for line in manager.stdout if "Manager serves" in line)
        yield int(line.split("127.0.0.1:")[1].split()[0])
        manager.kill()


def worker_of(old: Path, folder: Folder, port: int) -> tuple[int, str]:
    """Let a worker of version 0.1.0 work until it leaves; return its exit code, and what it said."""
    worker = subprocess.run(
        [sys.executable, old / "experiment_runner_gpu.py", "localhost", str(port), "--device", "cpu"],
        cwd=folder.root,
        env={**os.environ, "EXPERIMENT_TOKEN": folder.token_text},  # whose file it does not know
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return worker.returncode, worker.stdout


def test_a_worker_of_version_0_1_0_works_for_this_manager(old: Path, mine: Folder) -> None:
    with mine.serving() as manager:
        code, output = worker_of(old, mine, manager.port)
    assert code == 0, output
    assert sorted((row["width"], row["score"]) for row in mine.rows()) == [
        ("1", "10"),
        ("2", "20"),
        ("3", "30"),
    ]


COMMAND = 'python -c \'open("ran", "w"); print({{}})\' '
WIDTHS = {"combinations": [{"w": [1, 2]}]}
LATER: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # what its line says; the phase; the file
    "dotted": (
        "a parameter at a place in a mapping",
        {"defaults": {"model": {"width": 99}}, "combinations": [{"model.width": [1, 2]}]},
        {},
    ),
    "null": ("the form of its command", {"defaults": {"lr": None, "command": COMMAND + "--lr {lr} {w}"}}, {}),
    "list": ("the form of its command", {"defaults": {"lr": [1, 2], "command": COMMAND + "{lr} {w}"}}, {}),
    "args": ("the form of its command", {"defaults": {"command": COMMAND + "{args}"}}, {}),
    "json": ("the form of its command", {"defaults": {"command": COMMAND + "{w:json}"}}, {}),
    "setup": ("`setup`", {}, {"setup": "touch ran"}),
    "python": ("`python`", {"defaults": {"python": "python3", "command": COMMAND + "{w}"}}, {}),
    "frozen": ("`--freeze-code`", {}, {}),
    "early": ("`early_terminate`", {"early_terminate": {"type": "asha"}, "metric": {"name": "a"}}, {}),
}
RECORDS = """
from pathlib import Path
def run(params, context):
    Path("ran").touch()
    return {"a": 1}
"""


def folder_with(root: Path, phases: dict[str, Any], **more: Any) -> Folder:
    """A folder whose sweep file, JSON being YAML, holds these phases."""
    folder = gated_folder(root, "[1]", RECORDS)
    defaults = {"experiment": "experiment:run", "output_dir": "./results_exp1"}
    text = json.dumps({"defaults": defaults, **phases, **more})
    (root / "configs" / "config_exp1.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", LATER)
def test_a_worker_of_version_0_1_0_is_given_no_task_that_it_would_run_otherwise(
    old: Path, tmp_path: Path, kind: str
) -> None:
    name, phase, more = LATER[kind]
    folder = folder_with(tmp_path, {"late": WIDTHS | phase}, **more)
    with folder.serving(freeze_code=kind == "frozen") as manager:
        code, output = worker_of(old, folder, manager.port)
    line = f"Worker cpu0 runs distexp 0.1.0 and gets no task of phase late ({name} needs 0.2 or later)"
    assert code == 1, output
    assert f"Error requesting task: {line}: update distexp on {host_name()}" in output
    assert [said for said in folder.log() if line in said] == [f"{line}: update distexp on {host_name()}"]
    assert not (tmp_path / "ran").exists()
    assert not folder.csv.exists()


def test_it_gets_the_other_tasks_also_those_of_the_same_phase(old: Path, tmp_path: Path) -> None:
    rates = {"defaults": {"command": COMMAND + "--lr {lr}"}, "combinations": [{"lr": [None, 0.1, 0.2]}]}
    folder = folder_with(tmp_path, {"late": rates, "plain": WIDTHS})
    with folder.serving() as manager:
        code, output = worker_of(old, folder, manager.port)
        [left] = manager.queue.entries(State.PENDING)
    assert code == 1, output
    assert left.task.config["lr"] is None
    assert sorted(row["phase"] for row in folder.rows()) == ["late", "late", "plain", "plain"]


def test_the_manager_writes_its_rows_for_it(old: Path, mine: Folder) -> None:
    mine.add_rows("1;42;7", header="width;seed;score")
    with mine.serving() as manager:
        code, output = worker_of(old, mine, manager.port)
    assert code == 0, output
    header, *rows = mine.csv.read_text(encoding="utf-8").splitlines()
    assert header.startswith("width;seed;score;phase")
    assert [row.split(";")[:3] for row in rows] == [["1", "42", "7"], ["2", "42", "20"], ["3", "42", "30"]]


def test_a_hand_written_client_gets_every_task(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"late": WIDTHS}, setup="touch ran")
    with folder.serving() as manager, RawClient(manager.port, token=folder.token, worker_id="w") as client:
        assert client.say("request_task")["setup"] == "touch ran"


def test_a_worker_of_this_version_tells_a_manager_of_0_1_0_to_be_updated(old: Path, mine: Folder) -> None:
    with manager_of(old, mine) as port, worker_process(mine.root, "localhost", port) as worker:
        assert worker.code() != 0
        [line] = [line for line in worker.output().splitlines() if "Error requesting task" in line]
    assert "the manager at localhost:" in line
    assert f"is of an earlier version than this distexp ({__version__})" in line
    assert line.endswith("Update distexp there and start the manager again, or use its version here")


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (
            b'{"type":"request_task","worker_id":"w","version":"9.9","mood":"good","tags":{"a":[1]}}',
            RequestTask(worker_id="w", version="9.9"),
        ),
        (
            b'{"type":"heartbeat","worker_id":"w","version":"9.9","progress":{"step":1,"eta":5},"x":1}',
            Heartbeat(worker_id="w", version="9.9", progress=Progress(step=1)),
        ),
        (
            b'{"type":"task_complete","worker_id":"w","version":"9.9","result":{"mood":1},"energy_j":5}',
            TaskComplete(worker_id="w", version="9.9", result={"mood": 1}),
        ),
        (
            b'{"type":"task_failed","worker_id":"w","version":"9.9","cause":"`moody`","error":"x","mood":1}',
            TaskFailed(worker_id="w", version="9.9", error="x"),
        ),
    ],
)
def test_fields_and_words_that_a_later_client_knows_are_ignored(line: bytes, request_: object) -> None:
    assert decode_request(line) == request_


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"type":"status","mood":1}', "unknown field `mood`"),
        (b'{"type":"status","version":9,"mood":1}', "Expected `str \\| null`"),
        (
            b'{"type":"heartbeat","worker_id":"w","version":"9.9","progress":{"eta":5}}',
            "missing required field `step`",
        ),
        (b'{"type":"dance","version":"9.9"}', "Invalid value 'dance'"),
        (b'{"type":"task_failed","worker_id":"w","error":"x","cause":"moody"}', "Invalid enum value 'moody'"),
        (
            b'{"type":"status","version":"9.9",%s}' % b",".join(b'"f%d":1' % n for n in range(200)),
            "unknown field",
        ),
        (b'["version"]', "Expected `object`"),
    ],
)
def test_else_what_is_not_known_is_refused_by_name(line: bytes, found: str) -> None:
    with pytest.raises(ProtocolError, match=found):
        decode_request(line)


def test_a_later_worker_works_for_this_manager(folder: Folder) -> None:
    with folder.serving() as manager:
        later = {"token": folder.token, "worker_id": "w", "version": "9.9", "mood": "good"}
        with RawClient(manager.port, **later) as worker:
            task = worker.say("request_task")
            done = worker.say("task_complete", task_id=task["task_id"], result={"score": 1}, next=True)
        assert done["next"]["type"] == "task"


def test_a_failure_of_a_kind_that_only_a_later_version_knows_is_charged_to_its_task(folder: Folder) -> None:
    with folder.serving() as manager:
        later = {"token": folder.token, "worker_id": "w", "instance": "1", "version": "9.9"}
        with RawClient(manager.port, **later) as worker:
            task = worker.say("request_task")
            lease = {"lease_id": task["lease_id"], "key": task["key"]}
            worker.say("task_failed", **lease, cause="moody", error="it was not in the mood")
            assert worker.say("request_task")["key"] != task["key"], "it would run that one for ever"
        assert manager.queue.entry(task["key"]).failures == 1
