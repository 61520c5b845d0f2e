"""Nothing that the pages show is unverified: flags, commands, messages, names, links, fields."""

import argparse
import ast
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from distexp import task
from distexp.cli import init, manager, plan, query, report, steer, watch
from distexp.cli import worker as worker_command
from distexp.cli.main import VERBS as MANAGER_VERBS
from distexp.context import CHECKPOINT_FILE, Context
from distexp.errors import ConfigError
from distexp.experiments import command
from distexp.launcher.main import VERBS
from distexp.queue.entry import TRANSITIONS
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.wire.messages import SweepStatus
from distexp.worker import worker
from tests.pages import PAGES, PROJECT, anchor, blocks, page, rows, section, spans

README, DESIGN = page("README.md"), page("docs/design.md")
RUN_FLAGS = {
    "--workers",
    "--device",
    "--gpus",
    "--workdir",
}  # of `launch_distributed run`; the others go to the manager
OFFLINE = {"init", "plan", "report"}  # they ask no manager
Parse = Callable[[Sequence[str]], argparse.Namespace]
PARSERS: dict[str, Parse] = {
    "experiment_manager.py": manager.parse,
    "experiment_manager.py cancel": steer.parse_cancel,
    "experiment_manager.py drain": steer.parse_drain,
    "experiment_manager.py init": init.parse,
    "experiment_manager.py logs": query.parse_logs,
    "experiment_manager.py pause": steer.parse_pause,
    "experiment_manager.py plan": plan.parse,
    "experiment_manager.py report": report.parse,
    "experiment_manager.py requeue": steer.parse_requeue,
    "experiment_manager.py resume": steer.parse_resume,
    "experiment_manager.py show": query.parse_show,
    "experiment_manager.py status": query.parse_status,
    "experiment_manager.py tasks": query.parse_tasks,
    "experiment_manager.py watch": watch.parse,
    "experiment_runner_gpu.py": worker_command.parse,
}


def help_of(parse: Parse, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        parse(["--help"])
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_readme_lists_the_flags_that_the_scripts_have_and_no_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = re.split(
        r"^`([a-z_]+(?:\.py)?(?: [a-z]+)?)(?: [^`]*)?`:", section(README, "All flags"), flags=re.M
    )
    found = {name: flags_in(text) for name, text in zip(listed[1::2], listed[2::2], strict=True)}
    expected = {name: flags_in(help_of(parse, capsys)) - {"--help"} for name, parse in PARSERS.items()}
    launcher = flags_in(page("launch_distributed.sh")) - {"--help", "--version", "--dev"}
    assert launcher == RUN_FLAGS
    assert found == expected | {"launch_distributed run": launcher}
    known = set[str]().union(*found.values(), {"--help"})
    others = r"`(?:command:|tensorboard) .*?`| -- --.*"  # of other programs, the last of sbatch
    shown = re.sub(others, "", README)
    assert flags_in(shown) <= known | {"--time"}


def test_the_defaults_that_readme_lists_are_those_of_the_scripts() -> None:
    of_manager, of_runner = section(README, "All flags").split("`experiment_runner_gpu.py [host] [port]`")
    for table, settings in (
        (of_manager, manager.parse([])),
        (of_runner, worker_command.parse([])),
    ):
        for flag, default, _ in rows(table):
            value = getattr(settings, flag.strip("`-").replace("-", "_"))
            shown = default.strip("`").split(" (Windows")[0]
            assert str(value) in (shown, f"{shown}.0") or (not shown and value in (False, None)), flag


def test_readme_shows_every_verb_of_the_launcher_and_no_others() -> None:
    verbs = {verb.split()[0] for verb in VERBS.split("|")}
    shown = set(re.findall(r"launch_distributed\.(?:sh|bat) ([a-z]+)", README))
    assert shown - {"with"} == verbs


def test_every_verb_stands_in_the_pages_in_order() -> None:
    verbs = {name.split()[1] for name in PARSERS if " " in name}
    assert set(MANAGER_VERBS) == verbs
    assert list(MANAGER_VERBS) == sorted(verbs)
    for verb in verbs:
        assert f"`python experiment_manager.py {verb}" in README, verb


def test_the_help_of_each_verb_tells_its_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in (name for name in PARSERS if " " in name):
        shown = " ".join(help_of(PARSERS[name], capsys).split())
        refused = "" if name.split()[1] in OFFLINE else "1 nothing matched or the manager refuses, "
        assert f"exit code: 0 done, {refused}2 wrong words" in shown, name


def commands() -> list[str]:
    shown = [line for block in blocks(README, "sh") for line in block.splitlines()]
    shown += [span for span in spans(README) if re.match(r"(python|\./launch\S+|launch\S+\.bat) \S", span)]
    return sorted(set(shown))


@pytest.mark.parametrize("command", commands())
def test_a_command_in_readme_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(command)
    if program in ("ssh", "scp"):
        assert "5000:localhost:5000" in words or words == ["you@manager-host:distexp/.experiment_token", "."]
        return
    if "launch_distributed" in program:
        verb, *words = words
        script = {"worker": "experiment_runner_gpu.py", "run": "experiment_manager.py"}.get(verb)
        if script is None:
            assert verb in VERBS
            return
    else:
        script, *words = words
    if words and f"{script} {words[0]}" in PARSERS:
        script, words = f"{script} {words[0]}", words[1:]
    if words == ["--help"]:
        help_of(PARSERS[script], capsys)
    else:
        PARSERS[script](words)


def strings_of_the_code() -> str:
    """Every text in the code, the gaps of f-strings left out, one a line."""
    texts = [page("launch_distributed.sh")]
    for path in sorted((PROJECT / "distexp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("\0".join(v.value if isinstance(v, ast.Constant) else "" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_each_message_of_section_6_is_one_of_the_code() -> None:
    code = strings_of_the_code()
    messages = [spans(cells[0])[0] for cells in rows(section(README, "6. When something goes wrong"))]
    assert len(messages) > 20
    for message in messages:
        if message.startswith("configs/"):
            continue  # shown in full, see the next test
        for piece in re.split(
            r"\.\.\.|[:,] |found |\b\d+\b(?: s\b)?|127\.0\.0\.1|final_results\.csv", message
        ):
            words = piece.strip(" :;,()[]")
            assert words in code, f"{message}: {words!r} is in no text of the code"


def test_the_config_error_of_section_6_is_told_word_for_word() -> None:
    text = "exp1_vary_width:\n  combinations:\n" + "#\n" * 20 + "    - width_factor: 0.1\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "configs/config_exp1.yaml")
    assert f"| `{caught.value}` |" in README


@pytest.mark.parametrize(
    "table",
    [
        section(README, "7. Where is ...?"),
        section(DESIGN, "One task, hop by hop"),
        section(DESIGN, "One killed worker, hop by hop"),
    ],
)
def test_where_is_names_files_and_names_that_exist(table: str) -> None:
    for question, file, names in rows(table):
        text = page(file.strip("`"))
        for name in spans(names):
            place = rf"^ *(class |def |## |from \S+ import .*\b)?{name}\b"
            assert re.search(place, text, re.MULTILINE), f"{question}: {name}"


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve_and_no_path_of_a_machine_is_shown(name: str) -> None:
    text = page(name)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, fragment = target.partition("#")
        path = (PROJECT / name).parent / file if file else PROJECT / name
        assert path.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), target
    assert not re.search(r"/work/|/root\b|/tmp\b|/home/(?!ada/)|@[A-Z]+@", text)


def test_readme_shows_the_lines_that_users_look_for_in_the_log() -> None:
    for line in (
        "Generated 240 total tasks",
        "Marked 45 tasks as already completed",
        "Assigned task exp1_vary_width_0_42 to gpu0",
        "Task exp1_vary_width_0_42 completed by gpu0",
        "No available GPU found",
        "Error requesting task",
    ):
        assert line in README


def test_readme_explains_every_field_of_a_status() -> None:
    listed = [spans(cells[0])[0] for cells in rows(section(README, "3. Three terminals"))]
    explained = {name for name in listed if name.isidentifier()}
    assert explained == {field.name for field in structs.fields(SweepStatus)} - {"benched"}


# -- docs/design.md, CONTRIBUTING.md ----------------------------------------------------------------------


def test_the_journey_begins_with_a_line_of_readme_and_holds_its_first_task() -> None:
    sweep = blocks(README, "yaml")[0]
    assert blocks(DESIGN, "yaml")[0] in sweep
    first, *_ = [point.task for point in expand(parse_config(sweep, "configs/config_exp6.yaml"))]
    shown = json.loads(blocks(DESIGN, "json")[0])
    assert msgspec.convert(shown, task.Task) == first


def test_the_states_of_the_journey_are_the_table_of_the_queue() -> None:
    drawn = blocks(section(DESIGN, "States"), "text")[0]
    shown = {
        state.strip(): {each.strip() for each in after.split("|")}
        for before, _, after in (line.partition("->") for line in drawn.splitlines())
        for state in before.split(",")
    }
    assert shown == {state.value: {*moves} for state, moves in TRANSITIONS.items() if moves}


def test_each_line_of_durability_names_tests_that_exist() -> None:
    page_ = page("docs/durability.md")
    lines = [
        cells
        for heading in re.findall(r"^## (.*)", page_, re.M)[:-1]
        for cells in rows(section(page_, heading))
    ]
    assert len(lines) > 30
    for *_, shown_by in lines:
        names = spans(shown_by)
        assert names, f"{shown_by}: no test"
        for name in names:
            if name == "benchmarks.chaos":
                continue
            file, _, test = name.partition("::")
            (path,) = (PROJECT / "tests").rglob(f"{file}.py")
            assert f"\ndef {test}(" in path.read_text(encoding="utf-8"), name


def test_checkpoints_lists_each_variable_of_a_command_and_the_times_to_save() -> None:
    listed = {
        spans(cells[0])[0]
        for cells in rows(section(page("docs/checkpoints.md"), "For a program: variables and SIGTERM"))
    }
    assert listed == command._environment(Path("result"), Context(seed=1)).keys()
    text = page("docs/checkpoints.md")
    times_s = (worker.PREEMPTION_GRACE_S, worker.INTERRUPT_GRACE_S, command.STOP_GRACE_S)
    assert times_s == (20, 30, 20)
    assert "20 s after SIGTERM or SIGUSR2, 30 s after the second Ctrl+C" in text
    assert f"`{CHECKPOINT_FILE}`" in text


def test_each_test_that_security_names_exists() -> None:
    for name in re.findall(r"`((?:tests|distexp)/[\w/]+\.py)`", page("docs/security.md")):
        assert (PROJECT / name).exists(), name
