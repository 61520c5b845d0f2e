"""Config files: what is read from them, and every line that a user gets for a mistake."""

from pathlib import Path

import pytest

from distexp.errors import ConfigError
from distexp.sweep.config import MAX_PARAMETERS, Phase, load_configs, parse_config
from distexp.sweep.config_files import MAX_BYTES
from distexp.sweep.expand import expand
from distexp.sweep.yaml_loader import MAX_PATH_CHARS, MAX_SHOWN
from distexp.task import COMMAND_EXPERIMENT, DEFAULT_EXPERIMENT, Need

CONFIGS = Path(__file__).parents[1] / "configs"
FILE = "configs/config_exp1.yaml"


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, FILE)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def one_phase(text: str) -> Phase:
    (phase,) = parse_config(text, FILE)
    return phase


def test_a_users_own_file_is_read_as_it_stands() -> None:
    width, ratio = load_configs([Path("user_style.yaml")], CONFIGS)
    assert width == Phase(
        name="exp1_vary_width",
        where="user_style.yaml:9",
        axes={
            "dataset": ("digits", "openml:mnist_784"),
            "model": ("mlp", "cnn"),
            "width_factor": (1, 2, 4, 8),
        },
        defaults={"weight_decay": 0.0005, "lr": 0.001, "augment": "no", "hidden": [64, 64], "epochs": 30},
        seeds=(42, 101),
        experiment=DEFAULT_EXPERIMENT,
        command=None,
        output_dir="./results_exp1_{dataset}",
        timeout_s=None,
        process="forked",
        has_seeds=True,
    )
    assert list(width.axes) == ["dataset", "model", "width_factor"]
    assert ratio.defaults["epochs"] == 10
    assert (ratio.experiment, ratio.seeds, ratio.timeout_s, ratio.process) == (
        COMMAND_EXPERIMENT,
        (7,),
        60,
        "fresh",
    )
    assert ratio.command == "python train.py --ratio {ratio} --seed {seed} --out {output_dir}"


def test_every_problem_of_a_file_is_reported_at_once_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_configs([Path("all_wrong.yaml")], CONFIGS)
    expected = (CONFIGS / "all_wrong.txt").read_text()
    assert list(caught.value.problems) == expected.splitlines()


def test_of_very_many_problems_the_first_are_listed_and_the_rest_counted() -> None:
    problems = problems_of("\n".join(f"a{n}: 1" for n in range(MAX_SHOWN + 7)))
    assert problems[MAX_SHOWN - 1].startswith(f"{FILE}:{MAX_SHOWN}: a{MAX_SHOWN - 1}: must be a phase, ")
    assert problems[MAX_SHOWN:] == [f"{FILE}: and 7 problems more"]


def test_a_problem_stays_on_one_line_whatever_the_key_holds() -> None:
    assert problems_of('"a\\nb": 1') == [
        f"{FILE}:1: a\\nb: must be a phase, a mapping that holds `combinations` (it is 1), "
        "or one of defaults, seeds, include, tags, renamed_from, assume, metric, search, early_terminate, "
        "exclude, order, priority, setup"
    ]


@pytest.mark.parametrize(
    ("name", "meaning"), [("defaults", "what all phases start from"), ("seeds", "the seeds of all phases")]
)
@pytest.mark.parametrize("other", ["", "p: {combinations: [{b: [1]}]}\n"])
def test_a_phase_of_a_reserved_name_is_refused(name: str, meaning: str, other: str) -> None:
    assert problems_of(f"{other}\n{name}: {{combinations: [{{a: [1, 2]}}]}}") == [
        f"{FILE}:{2 + bool(other)}: {name}: is the name of {meaning}: give the phase another one"
    ]


@pytest.mark.parametrize("value", [5, [1, 2]])
def test_a_parameter_may_be_called_combinations(value: object) -> None:
    phase = one_phase(f"defaults: {{combinations: {value}}}\np: {{combinations: [{{a: [1, 2]}}]}}")
    assert phase.defaults == {"combinations": value}


def test_a_phase_may_be_called_like_any_other_key_of_a_file() -> None:
    for name in ("include", "metric", "setup"):
        assert one_phase(f"{name}: {{combinations: [{{a: [1, 2]}}]}}").name == name


@pytest.mark.parametrize(
    ("before", "own", "seeds"),
    [
        ("", "combinations: [{a: [1]}]", (42,)),
        ("defaults: {seed: 7}", "combinations: [{a: [1]}]", (7,)),
        ("defaults: {seeds: [7, 8]}", "combinations: [{a: [1]}]", (7, 8)),
        ("defaults: {seed: 7}\nseeds: [1, 2]", "combinations: [{a: [1]}]", (1, 2)),
        ("seeds: [1, 2]", "{defaults: {seed: 3}, combinations: [{a: [1]}]}", (3,)),
        ("seeds: [1, 2]", "{defaults: {seeds: [3, 4]}, combinations: [{a: [1]}]}", (3, 4)),
        ("seeds: [1, 2]", "{defaults: {seed: 3}, combinations: [{seed: [5, 6]}, {a: [1]}]}", (5, 6)),
    ],
)
def test_the_nearest_word_on_seeds_counts(before: str, own: str, seeds: tuple[int, ...]) -> None:
    own = own if own.startswith("{") else f"{{{own}}}"
    phase = one_phase(f"{before}\np: {own}")
    assert phase.seeds == seeds
    assert dict(phase.axes) == {"a": (1,)}


@pytest.mark.parametrize(
    ("file", "own", "experiment", "command"),
    [
        ("{}", "{}", DEFAULT_EXPERIMENT, None),
        ("{experiment: 'm:f'}", "{}", "m:f", None),
        ("{experiment: 'm:f'}", "{command: run it}", COMMAND_EXPERIMENT, "run it {a}"),
        ("{command: run it}", "{}", COMMAND_EXPERIMENT, "run it {a}"),
        ("{command: run it}", "{experiment: 'a.b:c'}", "a.b:c", None),
    ],
)
def test_what_a_phase_runs_displaces_what_the_file_runs(
    file: str, own: str, experiment: str, command: str | None
) -> None:
    text = f"defaults: {file}\np: {{defaults: {own}, combinations: [{{a: [1]}}]}}"
    phase = one_phase(text.replace("run it", "'run it {a}'"))
    assert (phase.experiment, phase.command) == (experiment, command)


def test_an_axis_wins_over_a_default_of_its_name() -> None:
    phase = one_phase("defaults: {a: 0, b: 0}\np: {combinations: [{a: [1, 2]}]}")
    assert (dict(phase.axes), dict(phase.defaults)) == ({"a": (1, 2)}, {"b": 0})


def test_cards_and_their_memory_are_settings_of_file_or_phase_and_no_parameters() -> None:
    inherits, own, third = parse_config(
        "defaults: {gpus: 2, min_free_gb: 12}\n"
        "p: {combinations: [{a: [1]}]}\n"
        "q: {defaults: {gpus: 1, min_free_gb: 0.5, gpu_model: [A100, RTX 4090]}, combinations: [{a: [1]}]}\n"
        "r: {defaults: {gpu_model: H100}, combinations: [{a: [1]}]}",
        FILE,
    )
    assert (inherits.gpus, inherits.min_free_gb, dict(inherits.defaults)) == (2, 12, {})
    assert (own.gpus, own.min_free_gb, own.gpu_model) == (1, 0.5, ("A100", "RTX 4090"))
    assert (third.gpu_model, third.defaults) == (("H100",), {})
    (plain,) = parse_config("p: {combinations: [{a: [1]}]}", FILE)
    (needy,), (task,) = expand([inherits]), expand([plain])
    assert (needy.need, task.need) == (Need(2, 12), Need())
    assert (needy.key, needy.task.config) == (task.key, task.task.config), (
        "what a task needs is not what it is"
    )
    assert needy.task.need == needy.need


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ("{experiment: 'm:f', command: x}",
         "command: experiment and command cannot stand together: keep one of them"),
        ("{seed: 1, seeds: [2]}", "seeds: seed and seeds cannot stand together: keep one of them"),
        ("{seeds: []}", "seeds: must be a list that is not empty, such as [1, 2, 4]"),
        ("{seeds: [1, 1]}", "seeds[1]: 1 stands in the list twice: keep one"),
        ("{seeds: [1.0]}", "seeds[0]: must hold whole numbers (this is 1.0)"),
        ("{timeout_s: .inf}", "timeout_s: .inf is no finite number: quote it to pass a text"),
        ("{gpus: 0}", "gpus: must be a number of GPUs, 1 or more (it is 0)"),
        ("{gpus: true}", "gpus: must be a number of GPUs, 1 or more (it is true)"),
        ("{gpu_model: []}", "gpu_model: must be names of GPUs, such as [A100, H100] (it is [])"),
        ("{gpu_model: [A100, 4090]}", "gpu_model: must be names of GPUs, such as [A100, H100] "
         '(it is ["A100", 4090])'),
        ("{min_free_gb: 0}", "min_free_gb: must be a number of GB above 0 (it is 0)"),
        ("{min_free_gb: 12 GB}", 'min_free_gb: must be a number of GB above 0 (it is "12 GB")'),
        ("{timeout_s: true}", "timeout_s: must be a number of seconds above 0 (it is true)"),
        ("{command: ''}", "command: must be text such as 'python train.py --seed {seed}' (it is \"\")"),
        ("{command: 'a \"b'}", "command: 'a \"b' has an open quote"),
        ("{command: 'a {b'}", "command: '{b' has a lone {: write {name}, or {{ for the brace itself"),
        ("{output_dir: 3}", "output_dir: must be text such as './results_{phase}' (it is 3)"),
        ("{output_dir: 'r_{'}", "output_dir: 'r_{' has a lone {: write {name}, or {{ for the brace itself"),
        ("{output_dir: '/tmp/r'}", "output_dir: /tmp/r "
         "must be a path below the working folder, such as ./results_1"),
        ("{output_dir: '~/r'}", "output_dir: ~/r "
         "must be a path below the working folder, such as ./results_1"),
        ("{output_dir: 'C:r'}", "output_dir: C:r "
         "must be a path below the working folder, such as ./results_1"),
        ("{output_dir: 'a/../../r'}", "output_dir: a/../../r "
         "must not leave the working folder by .."),
        ("{output_dir: 'a\\b'}", "output_dir: a\\b has '\\\\', "
         "which Windows cannot hold: use / and other characters"),
        ("{output_dir: 'r?'}", "output_dir: r? has '?', "
         "which Windows cannot hold: use / and other characters"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_gets_one_clear_line(defaults: str, problem: str) -> None:
    text = f"p:\n  defaults: {defaults}\n  combinations: [{{w: [1]}}]"
    assert problems_of(text)[0] == f"{FILE}:2: p.defaults.{problem}"


@pytest.mark.parametrize("name", ["device", "attempt", "checkpoint_dir"])
def test_a_parameter_named_like_a_placeholder_that_the_run_fills_is_refused_beside_a_command_with_that(
    name: str,
) -> None:
    text = f"p:\n  defaults: {{command: 'a {{{name}}}'}}\n  combinations: [{{{name}: [1]}}]"
    assert problems_of(text) == [
        f"{FILE}:2: p.defaults.command: the run itself fills {{{name}}}: rename the parameter {name} of p"
    ]
    assert one_phase(text.replace(f"a {{{name}}}", "a {args}")).command == "a {args}"


def test_a_value_that_would_leave_the_working_folder_is_named_where_it_stands() -> None:
    text = """\
defaults: {output_dir: "r/{d}/{e}", e: "a\\\\b"}
p:
  combinations:
    - d:
      - ok
      - ../up
      - a/b
      - ".."
      - "openml:mnist_784"
"""
    end = "in output_dir: folder names hold no / \\ and .."
    assert problems_of(text) == [
        f"{FILE}:1: defaults.e: 'a\\\\b' cannot stand for {{e}} {end}",
        f"{FILE}:6: p.combinations[0].d[1]: '../up' cannot stand for {{d}} {end}",
        f"{FILE}:7: p.combinations[0].d[2]: 'a/b' cannot stand for {{d}} {end}",
        f"{FILE}:8: p.combinations[0].d[3]: '..' cannot stand for {{d}} {end}",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{}: {{combinations: [{{a: [1]}}]}}", ""),
        ("p: {{combinations: [{{{}: [1]}}]}}", "p.combinations[0]."),
        ("p: {{defaults: {{{}: 1}}, combinations: [{{a: [1]}}]}}", "p.defaults."),
    ],
)
def test_a_name_that_makes_too_long_a_folder_is_refused(text: str, place: str) -> None:
    name = "é" * 101
    found = "a name has at most 200 bytes (this one has 202)"
    assert problems_of(text.format(name)) == [f"{FILE}:1: {place}{name}: {found}"]
    assert parse_config(text.format(name[:100]), FILE)


@pytest.mark.parametrize("name", ["../../../elsewhere/x", "a/b", "..\\\\x"])
def test_a_phase_whose_run_folders_would_lie_elsewhere_is_refused(name: str) -> None:
    assert problems_of(f'"{name}": {{combinations: [{{a: [1]}}]}}') == [
        f"{FILE}:1: {name.replace(2 * chr(92), chr(92))}: "
        f'a phase\'s name has no / and {chr(92)} (it is "{name}")'
    ]


def test_a_placeholder_that_nobody_fills_is_reported_once() -> None:
    text = "p: {defaults: {output_dir: 'r_{a}_{b}'}, combinations: [{a: [1, 2]}]}"
    assert problems_of(text) == [
        f"{FILE}:1: p.defaults.output_dir: {{b}} names nothing in p. There are: a, phase, seed"
    ]


def test_parameters_of_very_many_phases_are_refused_at_the_phase_that_passes_the_limit() -> None:
    many = ", ".join(f"a{number}: 1" for number in range(999))
    phases = "".join(f"p{number}: {{combinations: [{{b: [1]}}]}}\n" for number in range(300))
    assert problems_of(f"defaults: {{{many}}}\n{phases}") == [
        f"{FILE}:202: p200: 201000 parameters in the phases up to here: {MAX_PARAMETERS} is the most"
    ]


def test_the_place_of_a_problem_is_cut_when_its_keys_are_long() -> None:
    (problem,) = problems_of(f"? {'k' * 5_000}\n: [{'1, ' * 1_000}]")
    place = "k" * (MAX_PATH_CHARS - 3) + "..."
    assert problem.startswith(f"{FILE}:1: {place}: must be a phase, ")


def test_files_are_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"config_exp{number}.yaml").write_text(f"p{number}: {{combinations: [{{a: [1]}}]}}")
    (tmp_path / "notes.yaml").write_text("- not a sweep")
    phases = load_configs([Path("config_exp*.yaml"), Path("config_exp2.yaml")], tmp_path)
    assert [(phase.name, phase.where) for phase in phases] == [
        ("p1", "config_exp1.yaml:1"),
        ("p2", "config_exp2.yaml:1"),
        ("p10", "config_exp10.yaml:1"),
    ]


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + "é: {combinations: [{a: [1]}]}".encode())
    assert load_configs([Path("c.yaml")], tmp_path)[0].name == "é"


def test_problems_of_all_files_are_reported_together(tmp_path: Path) -> None:
    good = "p: {combinations: [{a: [1]}]}"
    (tmp_path / "c1.yaml").write_text("# first\n" + good)
    (tmp_path / "c2.yaml").write_text(good)
    (tmp_path / "c3.yaml").write_text("p: [")
    (tmp_path / "c4.yaml").write_bytes(b"a: 1\nb: \xff")
    (tmp_path / "c5.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "c6.yaml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_configs([Path("c*.yaml"), Path("d*.yaml")], tmp_path)
    lines = list(caught.value.problems)
    assert lines[:2] == [
        "d*.yaml: there is no such config file; `init` makes one",
        "c2.yaml:1: there is a phase p already, at c1.yaml:2: rename one",
    ]
    assert lines[2].startswith("c3.yaml:1: broken YAML: ")
    assert lines[3:] == [
        "c4.yaml:2: the byte 0xff is not UTF-8: save the file as that",
        f"c5.yaml: is larger than {MAX_BYTES} bytes: no config file needs that",
        "c6.yaml: cannot be read (Is a directory)",
    ]
