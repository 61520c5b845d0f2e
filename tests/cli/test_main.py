"""The command tree: help in groups, version, completion, and what comes in with a verb alone."""

import os
import subprocess
import sys

import click
import pytest

from distexp import __version__
from distexp.cli.main import GROUPS, VERBS, main, tree
from tests.pages import PROJECT


def completed(*words: str) -> list[str]:
    """Return what the shell is offered for the last word."""
    environment = os.environ | {
        "_DISTEXP_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["distexp", *words]),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-m", "distexp"]
    shown = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in shown.stdout.splitlines()]


def command_of(verb: str) -> click.Command:
    found = tree.get_command(click.Context(tree), verb)
    assert found
    return found


def test_help_shows_each_verb_in_its_group_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    at = -1
    for group, verbs in GROUPS.items():
        assert (at := shown.index(f"\n{group}:\n", at + 1)) > 0
        for name, verb in verbs.items():
            assert f"  {name}" in shown[at:]
            assert verb.help in shown[at:]
    assert "Examples:\n" in shown


def test_help_is_a_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (["help"], ["--help"], ["help", "plan"], ["plan", "--help"]):
        assert main(words) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2] == shown[3]


def test_a_typo_in_a_flag_of_run_is_answered_by_those_of_run_and_of_the_manager(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for typo, flag in (("--wokers", "--workers"), ("--rety-failed", "--retry-failed")):
        assert main(["run", typo]) == 2
        shown = capsys.readouterr().err
        assert (f"'{flag}'" in shown, "See `distexp run --help`." in shown) == (True, True)


@pytest.mark.parametrize("name", VERBS)
def test_each_verb_has_help_whatever_the_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {flag for option in command_of(name).params for flag in option.opts}
    words = [word for flag in ("--workdir", "--configs") if flag in flags for word in (flag, "absent")]
    assert main([name, *words, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: distexp {name}")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distexp {__version__}\n"


def test_a_shell_completes_verbs_flags_and_states() -> None:
    assert completed("re") == ["report", "requeue", "resume", "rerun"]
    assert completed("tasks", "--wh") == ["--where"]
    assert completed("tasks", "--state", "f") == ["failed"]


def test_help_imports_no_verb() -> None:
    program = (
        "import sys; from distexp.cli.main import main; main(['--help']); "
        "sys.exit(any(name.startswith('distexp.') and name not in "
        "('distexp.cli', 'distexp.cli.main', 'distexp.errors') for name in sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, check=False
        ).returncode
        == 0
    )
