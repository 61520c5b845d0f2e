"""Nothing that the pages show is unverified: flags, commands, messages, names, links, fields."""

import ast
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec
import pytest
from msgspec import structs

from distexp import task
from distexp.cli.main import VERBS, tree
from distexp.cli.pages import commands_page
from distexp.context import CHECKPOINT_FILE, Context
from distexp.errors import ConfigError
from distexp.experiments import command
from distexp.queue.entry import TRANSITIONS
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.wire.messages import SweepStatus
from distexp.worker import time_limits
from tests.pages import PAGES, PROJECT, anchor, blocks, page, rows, section, spans

README, DESIGN, EXPERIMENTS = page("README.md"), page("docs/design.md"), page("docs/experiments.md")
TROUBLESHOOTING, WATCHING = page("docs/troubleshooting.md"), page("docs/watching.md")
PROGRAMS = {  # what a command begins with, and the verb that it stands for
    "distexp": None,
    "./launch_distributed.sh": None,
    "launch_distributed.bat": None,
    "experiment_manager.py": "manager",
    "experiment_runner_gpu.py": "worker",
}
# Most flags on these are of pytest, of our benchmarks, of rivals and of your own scripts.
FLAGS_OF_OTHERS = {"CONTRIBUTING.md", "benchmarks/README.md", "docs/performance.md", "docs/sweeps.md"}
OF_LAUNCHERS = {"--cuda"}  # before the verb
OF_SBATCH = {"--time"}
# Whose flags a verb takes beside its own; what other programs are given.
PASSED_ON = {"run": "manager", "workers": "worker", "slurm": "worker"}
OTHERS = r"`(?:command:|tensorboard).*?`|python train.py[^`\n]*| -- --.*|^```python.*?^```"


def flags_of(verb: str) -> set[str]:
    command = tree.get_command(click.Context(tree), verb)
    assert command is not None
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own | {"--help", "-h"} | (flags_of(PASSED_ON[verb]) if verb in PASSED_ON else set())


def test_the_page_of_the_commands_is_that_of_the_command_tree() -> None:
    assert page("docs/commands.md") == commands_page(), "python -m distexp.cli.pages > docs/commands.md"


def test_the_flags_that_the_pages_name_are_some_verbs() -> None:
    known = set[str]().union(*map(flags_of, VERBS), {"--version"}, OF_LAUNCHERS, OF_SBATCH)
    for name in sorted(set(PAGES) - FLAGS_OF_OTHERS):
        shown = re.sub(OTHERS, "", page(name), flags=re.M | re.S)
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)) <= known, name


@pytest.mark.parametrize("launcher", ["launch_distributed.sh", "launch_distributed.bat"])
def test_the_help_of_a_launcher_names_every_verb(launcher: str) -> None:
    text = page(launcher)
    assert [verb for verb in VERBS if not re.search(rf"^(#|echo) .*\b{verb}(  |$)", text, re.M)] == []


def commands() -> list[str]:
    found = set()
    for name in PAGES:
        found |= {line for block in blocks(page(name), "sh") for line in block.splitlines()}
        programs = r"(python experiment|python -m|distexp|\./launch\S+|launch\S+\.bat) \S"
        found |= {span for span in spans(page(name)) if re.match(programs, span)}
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_parses(command: str) -> None:
    words = shlex.split(command.partition("  #")[0].partition(" ||")[0])
    words = words[words[0] == "nohup" : words.index(">") if ">" in words else None]
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if words[:2] == ["python", "-m"]:
        module, words = words[2], words[2:]
        if module.startswith(("distexp", "benchmarks")):
            assert find_spec(module), command
        if module != "distexp":
            return
    if words[0] == "python":
        del words[0]
    others = ("ssh", "scp", "pip", "git", "cd", "sed", "mkdir", "export", "echo", "nvidia-cuda-mps-control")
    if words[0] in others:
        return
    verb = PROGRAMS[words.pop(0)]
    if words and words[0] in OF_LAUNCHERS:
        del words[0]
    if words and words[0] in VERBS:
        verb = words.pop(0)
    elif words and words[0] in ("help", "VERB", "--help", "--version"):
        return
    assert verb is not None, command
    if verb == "test":  # its words are for pytest
        return
    own = words[: words.index("--")] if "--" in words else words
    assert {word.partition("=")[0] for word in own if word.startswith("-")} <= flags_of(verb)


@pytest.mark.parametrize("name", PAGES)
def test_each_block_of_a_page_says_its_language_so_that_commands_are_checked(name: str) -> None:
    begins = re.findall(r"^```(.*)$", page(name), re.M)[::2]
    assert all(begins)


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


def test_each_message_of_troubleshooting_is_one_of_the_code() -> None:
    code = strings_of_the_code()
    items = re.findall(r"^\* (`.*)\\$", section(TROUBLESHOOTING, "Messages"), re.M)
    messages = [spans(item)[0] for item in items]
    assert len(messages) > 20
    for message in messages:
        if message.startswith("configs/"):
            continue  # shown in full, see the next test
        for piece in re.split(r"\.\.\.|[:,] |\b\d+\b(?: s\b)?|127\.0\.0\.1|final_results\.csv", message):
            words = piece.strip(" :;,()[]")
            assert words in code, f"{message}: {words!r} is in no text of the code"


def test_the_config_error_of_troubleshooting_is_told_word_for_word() -> None:
    text = "exp1_vary_width:\n  combinations:\n" + "#\n" * 20 + "    - width_factor: 0.1\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "configs/config_exp1.yaml")
    assert f"* `{caught.value}`\\\n" in TROUBLESHOOTING


@pytest.mark.parametrize(
    "table",
    [
        section(DESIGN, "Where is ...?"),
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
    for target in re.findall(r"\]\((?!https://)([^)]+)\)", text):
        file, _, fragment = target.partition("#")
        path = (PROJECT / name).parent / file if file else PROJECT / name
        assert path.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), target
    assert not re.search(r"/work/|/root\b|/tmp\b(?!/distexp-)|/home/(?!ada/)|@[A-Z]+@", text)


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


def test_watching_explains_every_field_of_a_status() -> None:
    listed = [spans(cells[0])[0] for cells in rows(section(WATCHING, "Status"))]
    explained = {name for name in listed if name.isidentifier()}
    assert explained == {field.name for field in structs.fields(SweepStatus)} - {"benched"}


# -- docs/design.md, CONTRIBUTING.md ----------------------------------------------------------------------


def test_the_journey_begins_with_a_line_of_experiments_and_holds_its_first_task() -> None:
    sweep = blocks(EXPERIMENTS, "yaml")[0]
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


@pytest.mark.parametrize(
    ("promises", "count"), [("docs/durability.md", 31), ("docs/security.md", 17), ("docs/scale.md", 21)]
)
def test_each_line_of_a_page_of_promises_names_tests_that_exist(promises: str, count: int) -> None:
    tables = re.findall(r"^\|.* shown by \|$(?:\n\|.*$)+", page(promises), re.M)
    lines = [cells for table in tables for cells in rows(table)]
    assert len(lines) >= count
    for *_, shown_by in lines:
        names = spans(shown_by)
        assert names, f"{shown_by}: no test"
        for name in names:
            if name.startswith(("benchmarks.", "python -m benchmarks ")):
                continue
            file, _, test = name.partition("::")
            texts = [path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob(f"{file}.py")]
            assert any(f"\ndef {test}(" in text for text in texts), name


def test_checkpoints_lists_each_variable_of_a_command_and_the_times_to_save() -> None:
    listed = {
        spans(cells[0])[0]
        for cells in rows(section(page("docs/checkpoints.md"), "For a program: variables and SIGTERM"))
    }
    assert listed == command._environment(Path("result"), Context(seed=1)).keys()
    text = page("docs/checkpoints.md")
    times_s = (time_limits.PREEMPTION_GRACE_S, time_limits.INTERRUPT_GRACE_S, command.STOP_GRACE_S)
    assert times_s == (20, 30, 20)
    assert "20 s after SIGTERM, SIGHUP or SIGUSR2, 30 s after the second Ctrl+C" in text
    assert f"`{CHECKPOINT_FILE}`" in text


@pytest.mark.parametrize("name", PAGES)
def test_each_file_of_the_code_that_a_page_names_exists(name: str) -> None:
    named = re.findall(r"\b(?:tests|distexp|benchmarks|configs)/[\w/]+\.(?:py|yaml)\b", page(name))
    examples = {"configs/config_exp6.yaml", "tests/FILE.py"}  # that a reader writes, or a placeholder
    assert [path for path in named if path not in examples and not (PROJECT / path).exists()] == []
