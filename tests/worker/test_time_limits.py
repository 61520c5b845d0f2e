"""Attempts that never begin are ended: nothing bounds what a module does while it is imported."""

import os
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from distexp.task import State
from distexp.worker import connection, time_limits
from distexp.worker.task_main import Failed, Stopped
from distexp.worker.time_limits import START_S
from tests.live_manager import Folder
from tests.live_worker import await_file, marked_processes, open_gate, threaded_worker, worker_process
from tests.support import poll

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forkserver is the default on Linux alone")

QUICK = "def run(params, context): return {'score': 1}"
STALLS = """
import time
from pathlib import Path
Path("importing").touch()
while not Path("gate").exists(): time.sleep(0.01)
def run(params, context): return {"score": 2}
"""
CONFIG = """
defaults: {{output_dir: ./results_exp1, timeout_s: 60, process: {process}}}
p: {{defaults: {{experiment: "quick_{name}:run"}}, combinations: [width: [1]]}}
q: {{defaults: {{experiment: "stalls_{name}:run"}}, combinations: [width: [2]]}}
"""
CONFIG_ONE = """
defaults: {{output_dir: ./results_exp1, experiment: "stalls:run"}}
q: {{combinations: [width: {widths}]}}
"""
SHORT = """
import sys
sys.path.insert(0, {project!r})
from distexp.worker import time_limits
time_limits.START_S = 3.0
from distexp.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], verb="worker"))
"""


@pytest.mark.parametrize("process", ["forked", "fresh"])
def test_an_import_that_never_ends_is_a_failed_attempt_and_the_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: str
) -> None:
    counts = threading.Event()

    class Limits(time_limits.TimeLimits):
        def outcome(self, leave_by_s: float | None) -> Failed | Stopped | None:
            if self._task.phase == "q":
                counts.set()
            return super().outcome(leave_by_s)

    monkeypatch.setattr(time_limits, "TimeLimits", Limits)
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.05)  # how often the worker looks at the clock
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name, ahead_s = f"{os.getpid()}_{process}", [0.0]
    for kind, source in {"quick": QUICK, "stalls": STALLS}.items():
        (tmp_path / f"{kind}_{name}.py").write_text(source)
    folder = Folder(tmp_path)
    folder.configure("", CONFIG.replace("{process}", process).replace("{name}", name))
    clock = lambda: time.monotonic() + ahead_s[0]  # noqa: E731
    with folder.serving() as manager, threaded_worker(tmp_path, manager.port, clock) as worker:
        await_file(tmp_path / "importing")
        assert counts.wait(60), "from when the time counts"
        stalled = next(entry for entry in manager.queue.entries() if entry.task.phase == "q")
        ahead_s[0] = START_S
        poll(lambda: manager.queue.entry(stalled.task.key).failures == 1, "a failed attempt", 60)
        failed = manager.queue.entry(stalled.task.key)
        assert (failed.cause, failed.losses) == ("timeout", 0)
        late = f"stalls_{name}:run was not imported and warmed up within 600 s"
        assert late in failed.error.splitlines()[-1]
        open_gate(tmp_path)
        worker.await_end()
        assert {entry.state for entry in manager.queue.entries()} == {State.COMPLETE}
    assert [row["score"] for row in folder.rows()] == ["1", "2"]


@pytest.mark.slow
@linux_only
def test_a_worker_whose_template_stalls_says_so_leaves_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "stalls.py").write_text(STALLS)
    (tmp_path / "short.py").write_text(SHORT.format(project=str(Path(__file__).parents[2])))
    folder, mark = Folder(tmp_path), uuid.uuid4().hex
    folder.configure("[1]", CONFIG_ONE)
    with folder.serving() as manager:
        script, environment = tmp_path / "short.py", {"TEST_MARK": mark}
        with worker_process(tmp_path, script=script, environment=environment) as worker:
            assert worker.code() == 1
        late = "its process did not start within 3 s"
        why = f"{late} (the import of stalls:run, or the disk, does not end); its worker leaves"
        assert why in worker.output()
        (entry,) = manager.queue.entries()
        assert (entry.state, entry.failures, entry.cause) == (State.PENDING, 1, "timeout")
        poll(lambda: not marked_processes(mark), "the template gone", 60)
