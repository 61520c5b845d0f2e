"""Command templates: words, values that are null, lists or mappings, and all parameters at once."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.errors import ConfigError
from distexp.sweep.command_line import (
    fill_command,
    parse_command,
    second_command,
    shell_operator,
    shell_syntax,
)
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.task import joined
from tests.support import examples

VALUES: dict[str, object] = {
    "lr": 0.1,
    "bn": True,
    "off": False,
    "none": None,
    "empty": "",
    "text": "a 'b' $HOME",
    "layers": [64, 32],
    "nested": [[1], 2],
    "model": {"name": "cnn", "width": 4, "act": None},
}


def words(command: str, with_seed: bool = False) -> list[str]:
    return fill_command(command, VALUES, {"seed": 7, "device": "cpu"}, with_seed=with_seed)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("p --lr {lr} --bn {bn} {text}", ["--lr", "0.1", "--bn", "true", "a 'b' $HOME"]),
        ("p {none} --x {none} -y {none} --z 1 {none} end", ["--z", "1", "end"]),
        ("p --x={none} --y={lr} lr={none}", ["--y=0.1", "lr=null"]),
        ("p --a=1 {none} - {none} -- {none}", ["--a=1", "-", "--"]),
        ("p {empty} --x {empty} x{empty}", ["--x", "", "x"]),
        ("p --layers {layers} {nested}", ["--layers", "64", "32", "[[1], 2]"]),
        ("p --layers={layers} {layers:json}", ["--layers=[64, 32]", "[64, 32]"]),
        ("p {model} {model.width} {model.act}", ['{"name": "cnn", "width": 4, "act": null}', "4"]),
        ("p {none:json} {text:json} {bn:json}", ["null", "\"a 'b' $HOME\"", "true"]),
        ("p '{{\"x\": {lr}}}'", ['{"x": 0.1}']),
        ("p {seed} {device}", ["7", "cpu"]),
    ],
)
def test_each_word_is_filled_by_what_its_value_is(command: str, expected: list[str]) -> None:
    assert words(command) == ["p", *expected]


REST = "p {text} {empty} {nested} {model.name}"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{args}", ["--lr=0.1", "--bn=True", "--off=False", "--layers=[64, 32]", '--model={"width": 4}']),
        ("{args:flags}", ["--lr=0.1", "--bn", "--layers", "64", "32", '--model={"width": 4}']),
        ("{args:no}", ["--lr=0.1", "--bn", "--no-off", "--layers", "64", "32", '--model={"width": 4}']),
        ("{overrides}", ["lr=0.1", "bn=true", "off=false", "layers=[64,32]", "model.width=4"]),
    ],
)  # fmt: skip
def test_all_parameters_that_no_placeholder_names_stand_for_one_word(form: str, expected: list[str]) -> None:
    named = words(REST)
    assert words(f"{REST} {form}") == [*named, *expected]
    seed = "seed=7" if form == "{overrides}" else "--seed=7"
    assert words(f"{REST} {form}", with_seed=True)[-1] == seed
    assert seed not in words(f"{REST} {{seed}} {form}", with_seed=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("cnn", "cnn"),
        ("a/b.c-d+e@f", "a/b.c-d+e@f"),
        ("a b", "'a b'"),
        ("", "''"),
        ("true", "'true'"),
        ("Null", "'Null'"),
        ("007", "'007'"),
        ("1e-4", "'1e-4'"),
        ("it's", r"'it\'s'"),
        ("C:\\x", r"'C:\x'"),
        ("end\\", r"'end\\'"),
        ("a,b=[c]", "'a,b=[c]'"),
        (1e-05, "1e-05"),
        ({"a": [1, "x y", None], "b": {}}, None),
    ],
)
def test_hydra_reads_an_override_as_the_value_that_it_was(value: object, text: str | None) -> None:
    found = fill_command("p {overrides}", {"x": value}, {})[1:]
    assert found == ([f"x={text}"] if text is not None else ["x.a=[1,'x y',null]", "x.b={}"])


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("p \\\n--lr {lr} \\\n--seed {seed}\n", ["p", "--lr", "0.1", "--seed", "7"]),
        ("p \\\r\n  --lr {lr} \\\r\n  --bn\r\n", ["p", "--lr", "0.1", "--bn"]),
        ("p \\ \t\n--bn \\\n", ["p", "--bn"]),
        ("p --l\\\nr 1", ["p", "--lr", "1"]),
        ("p \"it's \\\nso\" \\\n 'it is \\\nso' \\\n \"isn't\"", ["p", "it's so", "it is \\\nso", "isn't"]),
        ("p\n--lr {lr}\n  x\n{bn}", ["p", "--lr", "0.1", "x", "true"]),
    ],
)
def test_a_backslash_at_a_lines_end_goes_on_as_in_a_shell(
    command: str, expected: list[str], windows: bool
) -> None:
    assert fill_command(command, VALUES, {"seed": 7}, windows=windows) == expected


def test_folders_of_windows_may_end_in_a_backslash() -> None:
    command = 'p "C:\\my data\\" C:\\x\\ \\\n --out "D:\\o"'
    assert fill_command(command, {}, {}, windows=True) == ["p", "C:\\my data\\", "C:\\x\\", "--out", "D:\\o"]


@pytest.mark.parametrize(
    ("command", "second"),
    [
        ("python a.py\npython train.py --lr {lr}\nlast\n", "python train.py --lr {lr}"),
        ("\r\npython a.py\r\n\r\nb 'x'\r\n", "b 'x'"),
        ("python a.py \\\nx.csv \\\n  --lr 1", ""),
        ("python a.py\n--lr 1\n  x.csv\n{args}\n", ""),
        ("python a.py\nmodel.width={w}\r\nlr={lr} +tags=a=b \n--multirun", ""),
        ("python a.py\nlr={lr}\nLR=1 python b.py", "LR=1 python b.py"),
        ("bash -c 'cd src\npython train.py'", ""),
        ('python -c "import a\nprint(1)"', ""),
    ],
)
def test_a_line_that_a_shell_would_run_by_itself_is_found(command: str, second: str) -> None:
    assert second_command(command) == second


@pytest.mark.parametrize("text", ["defaults: {command: %s}", "defaults: {command: p}\nsetup: %s"])
def test_two_commands_are_refused_with_the_line_where_they_stand(text: str) -> None:
    found = problems_of(text % '"cd src\\npython train.py"' + "\np: {combinations: [{lr: [1, 2]}]}")[0]
    assert found.split(": ", 2)[2] == (
        "the line 'python train.py' would be a command of its own, and one command runs: "
        "end the line before it with \\ if it goes on, or write bash -c '...' to run both"
    )


@pytest.mark.parametrize(
    ("command", "operator"),
    [
        ("cd src && python train.py", "&&"),
        ("python train.py --lr {lr} > out.txt", ">"),
        ("python train.py 2>&1 | tee log", "2>&1"),
        ("bash -c 'cd src && python train.py --lr {lr} | tee log'", ""),
        ('p --filter="a | b" \\> --sep \'|\' "say \\" > x"', ""),
        ("p --op < --op > --op | -n ; --sep ;", ""),
        ("p a>b x|y --url http://host/?a=1&b=2", ""),
        ("python train.py \\\n| tee log", "|"),
    ],
)
def test_what_only_a_shell_understands_is_found_outside_of_quotes(command: str, operator: str) -> None:
    assert shell_operator(command) == operator


@pytest.mark.parametrize(
    ("command", "begins"),
    [
        (
            "PYTHONPATH=. python train.py",
            "PYTHONPATH=... sets a variable in a shell, and no shell runs: write env before it "
            '(Windows: cmd /c "set PYTHONPATH=...&& ...")',
        ),
        ("LR={lr} A='b c' python train.py", "LR=... sets a variable"),
        ("python train.py --out $DISTEXP_RESULT", "$DISTEXP_RESULT is"),
        ("python train.py data=$HOME/data", "$HOME is"),
        ("python train.py ${SCRATCH}/data", "${SCRATCH} is"),
        ("python train.py $(date)", "$( is"),
        ("python train.py `date`", "` is"),
        ("source activate x; python train.py", "; is"),
        ("env PYTHONPATH=. python train.py lr={lr} --x=1", ""),
        ('cmd /c "set PYTHONPATH=.&& python train.py" {args}', ""),
        ("bash -c 'A=1 python train.py $HOME; date' x {args}", ""),
        ("p '$HOME' \"a; b\" \\$HOME a$ $1 5$ ~/x --sep ; {x};", ""),
        ("p run.dir=${{now:%Y}}/${{x}}", ""),
    ],
)
def test_what_a_shell_would_put_something_in_place_of_is_found_outside_of_quotes(
    command: str, begins: str
) -> None:
    found = shell_syntax(command)
    assert found.startswith(begins)
    assert bool(found) == bool(begins)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("", "a command needs a program and its arguments"),
        ("{none}", "'{none}': no program is left to run"),
        ("p 'open", '"p \'open" has an open quote'),
        ("p x{args}", "write {args} or {args:flags} or {args:no} as a word of its own"),
        ("p {args:json}", "write {args} or {args:flags} or {args:no} as a word of its own"),
        ("p {overrides:flags}", "write {overrides} as a word of its own"),
        ("p {lr:flags}", "{lr:flags} is for {args} only: write {lr}"),
    ],
)
def test_a_command_that_cannot_be_filled_is_refused_in_one_line(command: str, problem: str) -> None:
    with pytest.raises(ValueError) as refusal:
        words(command)
    assert str(refusal.value) == problem


@pytest.mark.parametrize("name", ["args", "overrides"])
def test_a_parameter_called_args_keeps_its_meaning(name: str) -> None:
    assert fill_command(f"p {{{name}}}", {name: "x", "y": 1}, {}) == ["p", "x"]
    assert not parse_command(f"p {{{name}}}", windows=False, known=[name]).takes_rest


def test_a_parameter_that_this_combination_lacks_is_null() -> None:
    assert fill_command("p --wd {wd} {lr}", {"lr": 1}, {}) == ["p", "1"]


@examples(100)
@given(st.lists(st.text(alphabet="ab '\"\\\\$;é", min_size=1), min_size=1, max_size=4))
def test_a_quoted_word_stays_one_word_whatever_it_holds(parts: list[str]) -> None:
    command = "p " + " ".join(shlex.quote(part) for part in parts) + " {x}"
    assert fill_command(command, {"x": parts[0]}, {}) == ["p", *parts, parts[0]]


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml")
    return list(caught.value.problems)


def test_an_axis_that_reaches_nobody_is_refused_with_its_line() -> None:
    text = """\
defaults: {command: "python t.py --lr 1", output_dir: "./r_{data}"}
p:
  combinations:
    - data: [a, b]
    - lr: [0.1, 0.2]
    - zip: {w: [1, 2], d: [3, 4]}
"""
    end = "reaches neither the command nor output_dir: write"
    assert problems_of(text) == [
        f"f.yaml:5: p.combinations[1].lr: lr {end} {{lr}} or {{args}} there",
        f"f.yaml:6: p.combinations[2]: w {end} {{w}} or {{args}} there",
    ]


@pytest.mark.parametrize("rest", ["{args}", "{args:no}", "{overrides}", "{run_dir}", "{lr} {m} {w:json} {d}"])
def test_an_axis_that_the_program_can_read_is_accepted(rest: str) -> None:
    text = f"""\
defaults: {{command: "python t.py {rest}", m: {{x: 1}}}}
p: {{combinations: [{{lr: [0.1, 0.2]}}, {{m.x: [2, 3]}}, {{zip: {{w: [1, 2], d: [3, 4]}}}}]}}
"""
    assert len(expand(parse_config(text, "f.yaml"))) == 8


@pytest.mark.parametrize(
    ("defaults", "python", "parameters"),
    [
        ("{command: 'python {args}', python: /opt/python}", "/opt/python", {}),
        ("{command: 'run {python} {args}', python: '3.10'}", None, {"python": "3.10"}),
        ("{command: 'run {args}', python: 3}", None, {"python": 3}),
        ("{python: '3.10'}", None, {"python": "3.10"}),
    ],
)
def test_python_is_a_setting_as_a_text_beside_a_command(
    defaults: str, python: str | None, parameters: dict[str, object]
) -> None:
    (phase,) = parse_config(f"p: {{defaults: {defaults}, combinations: [{{a: [1]}}]}}", "f.yaml")
    assert (phase.python, dict(phase.defaults)) == (python, parameters)
    (point,) = expand([phase])
    assert point.task.python == python


def test_a_dotted_axis_sets_its_place_for_function_command_and_folder_alone() -> None:
    text = """\
defaults: {output_dir: "r_{model.width}", model: {name: resnet, width: 1}}
p: {combinations: [{model.width: [4, 8]}, {a.b: [1]}]}
"""
    first, second = [point.task for point in expand(parse_config(text, "f.yaml"))]
    assert first.config == {"model.width": 4, "a.b": 1, "model": {"name": "resnet", "width": 1}}
    assert joined(second.config) == {"model": {"name": "resnet", "width": 8}, "a.b": 1}
    assert (first.output_dir, second.output_dir) == ("r_4", "r_8")
    assert fill_command("p {model.width} {model.name} {args}", joined(second.config), {}) == [
        "p", "8", "resnet", "--a.b=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"m": {}, "m.a.b": 1}, {"m": {"a": {"b": 1}}}),
        ({"m": {"a": 1}, "m.a": {"x": 1}, "m.a.y": 2}, {"m": {"a": {"x": 1, "y": 2}}}),
        ({"m": "cnn", "m.a": 1}, {"m": "cnn", "m.a": 1}),
        ({"a.b": {}, "a.b.c": 1}, {"a.b": {"c": 1}}),
    ],
)
def test_dotted_names_are_joined_into_the_mapping_of_their_first_part(
    config: dict[str, object], expected: dict[str, object]
) -> None:
    before = repr(config)
    assert joined(config) == expected
    assert repr(config) == before


def test_a_place_in_something_else_than_a_mapping_is_refused() -> None:
    text = "defaults: {model: cnn}\np:\n  combinations: [{model.width: [4, 8]}]"
    assert problems_of(text) == [
        "f.yaml:3: p.combinations[0].model.width: model.width sets a place in a mapping, "
        'but model is "cnn" (line 1): rename one, such as my_model (Hydra: model={my_model} in the command)'
    ]


def test_a_task_that_fits_no_message_is_refused_with_the_line_of_its_phase() -> None:
    text = "[" + ", ".join(["abcdefgh"] * 30_000) + "]"
    problems = problems_of(
        f"small: {{combinations: [{{a: [1]}}]}}\n"
        f"big: {{defaults: {{x: &x {text}, y: *x, z: *x}}, combinations: [{{a: [1]}}]}}"
    )
    assert problems == [
        "f.yaml:2: big: a task of big would hold 990,007 bytes of parameters, and 900,000 is the most: "
        "write x to a file, and its name here"
    ]
