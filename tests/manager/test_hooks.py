"""The user's own commands: run with their figures, and never the manager's trouble."""

import logging
import sys
import threading
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.manager import hooks
from distexp.manager.hooks import Hooks, parse_hook

SAY = "import os, sys; open(sys.argv[1], 'a').write(os.environ['DISTEXP_TASK_ID'] + '\\n')"


def test_commands_run_in_their_order_with_the_figures_in_their_environment(tmp_path: Path) -> None:
    made = Hooks()
    for task_id in ("a", "b\0c", "d"):
        made.run([sys.executable, "-c", SAY, str(tmp_path / "out")], {"task_id": task_id})
    made.close()
    assert (tmp_path / "out").read_text() == "a\nbc\nd\n"


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        (["absent-command-of-mine"], "absent-command-of-mine: cannot be started (No such file or directory)"),
        (
            [sys.executable, "-c", "import sys; sys.exit('no\\nmail server')"],
            f"{sys.executable}: found exit code 1, expected 0: mail server",
        ),
    ],
)
def test_a_command_that_fails_is_one_warning(
    words: list[str], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Hooks()
    made.run(words, {})
    made.close()
    assert [record.message for record in caplog.records] == [warning]


def test_a_command_that_hangs_is_killed_and_the_next_one_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Hooks(hook_s=1.0)
    made.run([sys.executable, "-c", "import threading; threading.Event().wait()"], {})
    waiting = threading.Event()
    caplog.handler.addFilter(lambda record: waiting.set() or True)
    assert waiting.wait(60)
    made.close()
    assert caplog.messages == [f"{sys.executable}: still ran after 1 s and was killed"]


def test_what_comes_too_thick_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(hooks, "MAX_WAITING", 2)
    made = Hooks()
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    for _ in range(9):
        made.run([sys.executable, "-c", wait], {})
    gate.touch()
    made.close()
    assert caplog.messages
    assert set(caplog.messages) == {f"{sys.executable}: left out, 2 of these commands wait already"}


def test_a_command_is_split_like_a_shell_line_and_no_shell_runs() -> None:
    assert parse_hook("--on-finish", "mail -s 'it is done' $HOME") == ["mail", "-s", "it is done", "$HOME"]
    assert parse_hook("--on-finish", None) == []


def test_on_windows_a_command_is_handed_over_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "IS_WINDOWS", True)
    typed = '"C:\\My Tools\\tell.exe" done'
    assert parse_hook("--on-finish", typed) == typed


@pytest.mark.parametrize(("command", "found"), [("mail 'x", "No closing quotation"), (" ", "no words")])
def test_a_command_that_is_none_is_refused(command: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_hook("--on-failure", command)
    assert (
        str(caught.value) == f"--on-failure {command!r}: found {found}, expected a command and its arguments"
    )
