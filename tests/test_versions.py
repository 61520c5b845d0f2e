"""Manager and worker of different versions: they work together, or one line says which side to update.

`recorded/version_0_1_0.tar.xz` is the source of version 0.1.0.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distexp import __version__
from distexp.errors import ProtocolError
from distexp.wire.framing import decode_request
from distexp.wire.messages import Heartbeat, Progress, RequestTask, TaskComplete
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


def test_a_worker_of_version_0_1_0_works_for_this_manager(old: Path, mine: Folder) -> None:
    command = [sys.executable, old / "experiment_runner_gpu.py", "localhost"]
    with mine.serving() as manager:
        worker = subprocess.run(
            [*command, str(manager.port), "--device", "cpu"],
            cwd=mine.root,
            env={**os.environ, "EXPERIMENT_TOKEN": mine.token_text},  # whose file it does not know
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert worker.returncode == 0, worker.stdout
    assert sorted((row["width"], row["score"]) for row in mine.rows()) == [
        ("1", "10"),
        ("2", "20"),
        ("3", "30"),
    ]


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
    ],
)
def test_fields_that_a_later_client_knows_are_ignored(line: bytes, request_: object) -> None:
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
