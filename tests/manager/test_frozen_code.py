"""Tasks that run from a copy of the code: edits do no harm, other machines need no clone."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.manager.frozen_code import FrozenCode
from distexp.system import code_copy
from distexp.system.code import SHOWN_DIGITS, FolderCode
from distexp.wire.client import Client
from distexp.wire.messages import Code, CodeReply
from distexp.workdir import Workdir
from distexp.worker.code_folder import CodeFolder
from tests.live_manager import Folder, RawClient
from tests.live_worker import CONFIG, await_began, await_rows, gated_folder, open_gate, worker_process
from tests.support import poll

# Its answer is in a file beside it, which it reads at the end; it waits at the gate of the working folder.
EXPERIMENT = """
import os, time
from pathlib import Path
import answers
def run(params, context):
    lab = context.output_dir.parent
    (lab / f"began-{params['width']}-{context.attempt}").touch()
    while not (lab / "gate").exists(): time.sleep(0.01)
    late, data = (Path(name).read_text() for name in ("late.txt", "data/d"))
    return {"answer": answers.ANSWER, "late": late, "data": data}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Folder]:
    folder = gated_folder(tmp_path, "[1, 2]", EXPERIMENT, CONFIG)
    write(folder.root, 1)
    (folder.root / "data").mkdir()
    (folder.root / "data/d").write_text("rows")
    (folder.root / ".gitignore").write_text("data/\ngate\nbegan-*\n")
    subprocess.run(["git", "init", "-q", str(folder.root)], check=True)
    yield folder


def write(root: Path, answer: int) -> None:
    (root / "answers.py").write_text(f"ANSWER = {answer}\n")
    (root / "late.txt").write_text(f"{answer}")


def answers(folder: Folder) -> list[tuple[str, str, str]]:
    return [(row["answer"], row["late"], row["data"]) for row in folder.rows()]


def test_an_edit_while_tasks_run_changes_none_of_them(lab: Folder, caplog: pytest.LogCaptureFixture) -> None:
    code = FolderCode(lab.root).now().code
    with lab.serving(freeze_code=True), worker_process(lab.root, device="cpu") as worker:
        await_began(lab.root, 1)
        write(lab.root, 2)
        open_gate(lab.root)
        assert worker.code() == 0
    assert answers(lab) == [("1", "1", "rows")] * 2
    assert {row["code"] for row in lab.rows()} == {code}
    assert f"Tasks run from a copy of the code as it is now ({code[:SHOWN_DIGITS]}, 5 files)" in caplog.text


def test_a_task_that_is_requeued_runs_the_code_of_now(lab: Folder) -> None:
    open_gate(lab.root)
    (lab.root / "late.txt").unlink()
    with lab.serving(freeze_code=True) as manager, RawClient(manager.port, token=lab.token) as user:
        with worker_process(lab.root, device="cpu") as worker:
            assert worker.code() == 0, "both have failed: nothing is left"
        write(lab.root, 2)
        assert user.say("requeue", failed=True)["count"] == 2
        with worker_process(lab.root, device="cpu") as worker:
            assert worker.code() == 0
    assert answers(lab) == [("2", "2", "rows")] * 2


def test_an_edit_that_cannot_be_copied_leaves_tasks_with_the_copy_before(
    lab: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frozen, fetched = (FrozenCode(Workdir(lab.root), is_frozen=each) for each in (True, False))
    frozen.freeze()
    before = frozen.copy_for(fetches=False)
    assert fetched.copy_for(fetches=True) == before
    write(lab.root, 2)
    monkeypatch.setattr(code_copy, "MAX_FILES", 1)
    for _ in range(2):
        for each in (frozen, fetched):
            each.renew()  # whoever resumes has fixed something
        assert frozen.copy_for(fetches=False) == fetched.copy_for(fetches=True) == before
    assert caplog.text.count("Tasks go on with the copy before") == 2, "once for each"
    with pytest.raises(UserError, match="Put data into"):
        frozen.freeze()


def test_an_edit_is_said_with_what_tasks_run(lab: Folder, caplog: pytest.LogCaptureFixture) -> None:
    subprocess.run(["git", "-C", str(lab.root), "add", "."], check=True)
    with lab.serving(freeze_code=True) as manager, RawClient(manager.port, token=lab.token) as user:
        write(lab.root, 2)
        for _ in range(2):
            manager.rescan()
        said = [each for each in caplog.messages if "code of this folder has changed" in each]
        assert [each.partition("): ")[2] for each in said] == [
            "tasks go on with their copy; requeue and resume take a new one"
        ]
        user.say("resume")
        manager.rescan()
    assert caplog.text.count("code of this folder has changed") == 1
    assert caplog.text.count("Tasks run from a copy of the code as it is now") == 2


def test_git_is_not_asked_at_every_assignment_where_code_is_not_frozen(
    lab: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distexp.manager.frozen_code.LOOK_S", 3600.0)
    frozen = FrozenCode(Workdir(lab.root), is_frozen=False)
    before = frozen.copy_for(fetches=True)
    write(lab.root, 2)
    with monkeypatch.context() as patch:
        patch.setattr(code_copy, "ask_git", lambda *words, **more: pytest.fail("git was asked"))
        assert frozen.copy_for(fetches=True) == before
    frozen.renew()
    assert frozen.copy_for(fetches=True) != before, "whoever resumes has fixed something"


def test_a_worker_whose_copy_was_deleted_goes_to_the_one_that_it_fetches_anew(
    lab: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.root)
    monkeypatch.setattr(sys, "path", [*sys.path])
    workdir = Workdir(lab.root)
    with lab.serving(freeze_code=True), Client(workdir) as client:
        name = next(each.name for each in workdir.code_copies.iterdir())
        code = CodeFolder(workdir, lambda: client)
        assert [code.enter(name), code.enter(name)] == [True, False]
        client.call(Code(copy=name), CodeReply)
        (workdir.code_copies / name).rename(lab.root / "elsewhere")
        shutil.copytree(lab.root / "elsewhere", workdir.code_copies / name)
        assert code.enter(name)
        assert Path.cwd() == workdir.code_copies / name


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_worker_in_an_empty_folder_fetches_the_code(lab: Folder, tmp_path: Path, is_frozen: bool) -> None:
    there = tmp_path / "another machine"
    (there / ".experiment_manager").mkdir(parents=True)
    shutil.rmtree(lab.root / "data")
    (lab.root / "data").mkdir()
    with lab.serving(freeze_code=is_frozen) as manager:
        shutil.copy(Workdir(lab.root).token, there / ".experiment_manager/token")
        (there / "data").mkdir()
        (there / "data/d").write_text("rows of that machine")
        (there / "results_exp1").mkdir()
        words = ["localhost", str(manager.port), "--fetch"]
        with worker_process(there, *words, device="cpu") as worker:
            poll((there / "began-1-1").exists, "a task began", 60)
            open_gate(there)
            await_rows(lab, 2)
            assert worker.code() == 0
    assert answers(lab) == [("1", "1", "rows of that machine")] * 2
    (copy,) = (there / ".experiment_manager/code").iterdir()
    assert [(copy / name).exists() for name in ("answers.py", ".gitignore", ".experiment_manager")] == [
        True, True, False,
    ]  # fmt: skip


def test_pieces_of_no_copy_are_refused(lab: Folder) -> None:
    with lab.serving(freeze_code=True) as manager, RawClient(manager.port, token=lab.token) as user:
        for name in ("../token", "0" * 20, ""):
            assert "there is no copy" in str(user.say("code", copy=name)["error"])
