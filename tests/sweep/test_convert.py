"""W&B sweep files to ours: what comes out is read by our loader, and says what it could not carry."""

import sys

import pytest

from distexp.errors import ConfigError
from distexp.sweep.command_line import fill_command
from distexp.sweep.config import Phase, parse_config
from distexp.sweep.convert import convert
from distexp.sweep.expand import expand
from distexp.task import Halving


def converted(text: str) -> tuple[Phase, list[str]]:
    found = convert(text)
    (phase,) = parse_config(found, "config_exp1.yaml")
    assert phase.space is not None or expand([phase])
    return phase, [line for line in found.splitlines() if line.startswith("#")]


GRID = """\
program: train.py
method: grid
metric: {name: val_loss, goal: minimize}
parameters:
  lr: {values: [0.1, 1e-2]}
  layers: {min: 1, max: 3}
  optimizer:
    parameters:
      name: {value: adam}
      beta: {values: [0.9, 0.99]}
  epochs: {value: 5}
  seed: {values: [1, 2]}
"""


def test_a_grid_is_carried_over_whole() -> None:
    phase, notes = converted(GRID)
    points = expand([phase])
    assert notes == []
    assert len(points) == 2 * 3 * 2 * 2
    assert (phase.command, phase.search, phase.seeds) == ("python train.py {args}", None, (1, 2))
    assert phase.metric is not None
    assert (phase.metric.name, phase.metric.goal) == ("val_loss", "minimize")
    assert points[0].task.config == {
        "lr": 0.1, "layers": 1, "optimizer.beta": 0.9, "optimizer": {}, "optimizer.name": "adam", "epochs": 5,
    }  # fmt: skip


RANDOM = """\
program: my train.py
method: random
run_cap: 12
name: My sweep
command:
  - ${env}
  - ${interpreter}
  - -u
  - ${program}
  - --tag=a b
  - ${args_no_boolean_flags}
parameters:
  lr: {distribution: log_uniform, min: -9.21034, max: 0}
  wd: {distribution: log_uniform_values, min: 1e-5, max: 1e-2}
  drop: {min: 0.0, max: 0.5}
  act: {values: [relu, gelu], probabilities: [0.9, 0.1]}
  n: {distribution: q_uniform, min: 0, max: 64, q: 8}
  x: {distribution: normal, mu: 1, sigma: 2}
"""


def test_a_random_search_is_carried_over_with_the_values_of_exponents() -> None:
    phase, notes = converted(RANDOM)
    assert notes == ["# lr: W&B's log_uniform takes exponents: these are the values"]
    assert (phase.name, len(expand([phase]))) == ("My_sweep", 12)
    lr = [value for value in phase.axes["lr"]]
    assert all(0.0001 <= value <= 1 for value in lr)
    assert phase.command is not None
    assert fill_command(phase.command, {"bn": True}, {}) == [
        "python", "-u", "my train.py", "--tag=a b", "--bn",
    ]  # fmt: skip


BAYES = """\
method: bayes
project: p
early_terminate: {type: hyperband, min_iter: 3}
parameters:
  lr: {min: 0.0, max: 1.0}
  b: {distribution: beta, a: 1, b: 2}
  timeout_s: {values: [1, 2]}
  seed: {distribution: int_uniform, min: 1, max: 9}
command: [python, "${program}", "${args_json}", "${args}"]
"""


def test_what_cannot_be_carried_over_is_a_comment() -> None:
    _, notes = converted(BAYES)
    assert notes == [
        '# left out: project: "p"',
        '# left out, there is no such distribution here: b: {"distribution": "beta", "a": 1, "b": 2}',
        "# left out, the name has a meaning here: call it my_timeout_s, say, and write "
        '--timeout_s={my_timeout_s} in the command: timeout_s: {"values": [1, 2]}',
        "# left out: seeds are a list of whole numbers here: "
        'seed: {"distribution": "int_uniform", "min": 1, "max": 9}',
        "# no program is named: replace train.py",
        "# not known in a command: ${args_json}",
        '# left out, it needs a metric: early_terminate: {"type": "hyperband", "min_iter": 3}',
        "# method: bayes: drawn at random here, as no metric is named",
        "# samples: as many as `wandb agent --count` says; 40 here",
    ]


def test_bayes_with_a_metric_is_tpe() -> None:
    phase, notes = converted(f"{BAYES}metric: {{name: loss}}\nrun_cap: 30\n")
    assert phase.search is not None and phase.space is not None
    assert (phase.search.method, phase.search.samples) == ("tpe", 30)
    assert phase.metric is not None and phase.metric.goal == "minimize"
    assert phase.halving is not None
    assert notes[-1].startswith("# method: bayes: TPE here, by Optuna (pip install optuna)")


@pytest.mark.parametrize(
    ("said", "halving"),
    [
        ("{type: hyperband, min_iter: 3, strict: true}", Halving(metric="loss", goal="minimize", min_iter=3)),
        ("{type: hyperband, s: 2, max_iter: 27}",
         Halving(metric="loss", goal="minimize", min_iter=3, max_iter=27)),
        ("{type: envelope}", None),
    ],
)  # fmt: skip
def test_early_stopping_is_carried_over(said: str, halving: Halving | None) -> None:
    phase, notes = converted(f"{RANDOM}\nmetric: {{name: loss}}\nearly_terminate: {said}\n")
    assert phase.halving == halving
    note = "# early_terminate: looks at steps of `context.report`, or of JSON lines with a `step`"
    assert (note in notes) == (halving is not None)
    assert ('# left out, not understood: early_terminate: {"type": "envelope"}' in notes) == (halving is None)


def test_texts_stay_texts_and_a_sweep_without_axes_is_one_task() -> None:
    phase, notes = converted(
        "program: t.py\nmethod: grid\nparameters: {a: {value: '1e-4'}, b: {value: 'yes'}}"
    )
    assert (dict(phase.axes), dict(phase.defaults)) == ({"a": ("1e-4",)}, {"b": "yes"})
    assert notes == ["# no parameter varies"]


def test_a_script_of_a_sweep_of_seeds_alone_gets_them_and_nothing_else() -> None:
    phase, notes = converted("program: t.py\nmethod: grid\nparameters: {seed: {values: [1, 2]}}")
    tasks = [point.task for point in expand([phase])]
    assert notes == []
    assert [
        fill_command("{args}", task.config, {"seed": task.seed}, with_seed=task.has_seeds) for task in tasks
    ] == [
        ["--seed=1"],
        ["--seed=2"],
    ]


def test_plain_words_are_what_yaml_1_1_reads_as_w_and_b_does() -> None:
    phase, _ = converted(
        "method: grid\nparameters:\n  on: {values: [yes, Off, 'no']}\n  steps: {values: [1_000, 1e-5, 2]}\n"
        "  day: {value: 2026-01-01}\n"
    )
    assert dict(phase.axes) == {"on": (True, False, "no"), "steps": (1000, 1e-5, 2)}
    assert phase.defaults == {"day": "2026-01-01"}


def here(name: str) -> str:
    other = f"call it my_{name}, say, and write --{name}={{my_{name}}} in the command"
    return f"left out, the name has a meaning here: {other}: {name}"


@pytest.mark.parametrize(
    ("parameters", "notes"),
    [
        ("a: {values: [1, 1, 2]}", ["left out, it stands there twice: a: 1"]),
        ("seed: {values: [3, 3]}, a: {values: [1, 2]}", ["left out, it stands there twice: seed: 3"]),
        ("when: {values: [1, 2]}, a: {values: [1, 2]}",
         [f'{here("when")}: {{"values": [1, 2]}}']),
        ("cases: {value: 1}, a: {values: [1, 2]}", []),
        ("zip: {value: 1}", ["no parameter varies"]),
        ("args: {value: 1}, a: {values: [1, 2]}", [f'{here("args")}: {{"value": 1}}']),
        ("python: {value: abc}, a: {values: [1, 2]}",
         [f'{here("python")}: {{"value": "abc"}}']),
        ("python: {values: ['3.11', '3.12']}", []),
        ("args: {parameters: {b: {values: [1, 2]}}}, a: {values: [1, 2]}",
         [f'{here("args")}: {{"parameters": {{"b": {{"values": [1, 2]}}}}}}']),
        ("seed: {parameters: {b: {value: 1}}}, when: {parameters: {b: {values: [1, 2]}}}",
         ['left out: seeds are a list of whole numbers here: seed: {"parameters": {"b": {"value": 1}}}']),
        ("a: {values: [1, '1']}, b: {values: [1, 2]}",
         ['left out ("1" and 1 look alike in a row: change one): a: {"values": [1, "1"]}']),
        ("a: {min: 0, max: 100000000}, b: {values: [1, 2]}",
         ["left out (must give 1 to 1,000,000 values, not 100,000,001 (it is [0, 100000001])): "
          'a: {"min": 0, "max": 100000000}']),
        ("a: {values: [1, 2], probabilities: [0.1, 0.9]}", ["left out: a.probabilities: [0.1, 0.9]"]),
        ("a: {value: 1, mu: 3}, b: {values: [1, 2]}", ["left out: a.mu: 3"]),
    ],
)  # fmt: skip
def test_a_parameter_that_our_loader_would_refuse_is_a_comment(parameters: str, notes: list[str]) -> None:
    _, found = converted(f"program: t.py\nmethod: grid\nparameters: {{{parameters}}}\n")
    assert found == [f"# {note}" for note in notes]


@pytest.mark.parametrize(
    ("parameter", "note"),
    [
        ("{distribution: log_uniform, min: 0, max: 1000}", "left out, no float holds numbers that large"),
        ("{distribution: q_log_uniform, min: 0, max: 710}", "left out, no float holds numbers that large"),
        ("{distribution: log_uniform, min: -1000, max: 1}",
         "left out (min must be above 0 for log_uniform_values (it is 0.0))"),
        ("{distribution: uniform, min: 5, max: 1}", "left out (min (5) is above max (1))"),
        ("{values: [1, 2], probabilities: [1, 1]}",
         "left out (probabilities must be 0 or more, and 1 together)"),
        ("{values: []}", "left out (must be a list that is not empty, such as [1, 2, 4])"),
    ],
)  # fmt: skip
def test_so_is_a_distribution_that_nothing_can_be_drawn_from(parameter: str, note: str) -> None:
    phase, notes = converted(
        f"program: t.py\nmethod: random\nrun_cap: 3\nparameters: {{x: {parameter}, y: {{min: 1, max: 9}}}}"
    )
    assert list(phase.axes) == ["y"]
    assert [each for each in notes if each.startswith(f"# {note}: x: {{")]


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [
        ("a: {values: [1, 2, 3]}, b: {values: [x, y, y]}", 6),
        ("a: {min: 1, max: 3}, b: {values: [1, 2, 3], probabilities: [0.5, 0.5, 0]}", 6),
        ("a: {distribution: q_uniform, min: 0.1, max: 1, q: 0.25}, b: {min: 0.5, max: 0.5}", 5),
        ("a: {value: 3}", 1),
        ("a: {distribution: q_normal, mu: 0, sigma: 1, q: 1}", 7),
        (
            "a: {parameters: {b: {min: 0, max: 1}}}, c: {distribution: q_log_uniform, min: 0, max: 3, q: 2}",
            20,
        ),
        ("a: {values: [1, 2]}, b: {min: 0.0, max: 1.0}", 40),
        ("a: {min: 1, max: 40}", 40),
    ],
)
def test_no_more_samples_are_asked_for_than_there_are_combinations(parameters: str, samples: int) -> None:
    phase, notes = converted(f"program: t.py\nmethod: random\nrun_cap: 40\nparameters: {{{parameters}}}")
    assert phase.search is not None
    assert (phase.search.samples, len(expand([phase]))) == (samples, samples)
    assert (f"# samples: {samples}, as there are no more combinations" in notes) == (samples < 40)


@pytest.mark.parametrize(
    ("more", "notes"),
    [
        ("metric: {name: loss, goal: minimize, target: 0.1}", ["left out: metric.target: 0.1"]),
        ("metric: {name: loss, goal: up}", ['left out, not understood: metric.goal: "up"']),
        ("metric: {name: 3}", ['left out, it names none: metric: {"name": 3}']),
        ("run_cap: 5", ["left out, a grid runs whole: run_cap: 5"]),
        ("name: seeds", ["name: seeds: has a meaning of its own here: the phase is called sweep_seeds"]),
        ("name: defaults",
         ["name: defaults: has a meaning of its own here: the phase is called sweep_defaults"]),
        ("name: include", []),
        ("command: [python, t.py]",
         ["the command holds no ${args}: {args} is added, as parameters reach it so here"]),
    ],
)  # fmt: skip
def test_whatever_else_is_not_carried_over_is_a_comment(more: str, notes: list[str]) -> None:
    _, found = converted(f"program: t.py\nmethod: grid\n{more}\nparameters: {{a: {{values: [1, 2]}}}}")
    assert found == [f"# {note}" for note in notes]


def test_texts_that_yaml_would_fold_and_braces_stay_as_they_are() -> None:
    phase, _ = converted('program: "t{1}.py"\nmethod: grid\nparameters: {a: {values: ["x\\u2028y\\x85", z]}}')
    assert dict(phase.axes) == {"a": ("x\u2028y\x85", "z")}
    assert fill_command(phase.command or "", {"a": "z"}, {}) == ["python", "t{1}.py", "--a=z"]


def test_without_optuna_a_search_is_converted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    monkeypatch.setattr("sys.path", [])
    assert "search: {method: tpe, samples: 40}" in convert(f"{BAYES}metric: {{name: loss}}\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("program: t.py\nparameters: {m: {value: cnn}, m.w: {values: [1, 2]}}\nmethod: grid",
         "s.yaml: what it asks for is refused here: sweep.combinations[0].m.w: "
         'm.w sets a place in a mapping, but m is "cnn": rename one, '
         'such as my_m (Hydra: m={my_m} in the command)'),
        ("lr: [1, 2]", "s.yaml: is no W&B sweep: that has `method` and a mapping `parameters`; "
         "docs/sweeps.md tells what those of other tools are here"),
        ("", "s.yaml: is no W&B sweep: that has `method` and a mapping `parameters`; "
         "docs/sweeps.md tells what those of other tools are here"),
        ("a: [", "s.yaml:1: broken YAML: while parsing a flow node: expected the node content, "
         "but found '<stream end>'"),
    ],
)  # fmt: skip
def test_another_file_gets_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(text, "s.yaml")
    assert caught.value.problems == (problem,)
