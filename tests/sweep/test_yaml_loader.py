"""The loader: YAML 1.2 scalars, merge keys, and one clear line for text that is broken or hostile."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from distexp.errors import ConfigError
from distexp.sweep.config import Phase, parse_config
from distexp.sweep.yaml_loader import LARGE_CHARS, MAX_DEPTH, Problems, read
from tests.support import examples

FILE = "configs/config_exp1.yaml"
DEEP = f":1: nested deeper than {MAX_DEPTH} levels: is an alias inside its own anchor?"


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, FILE)
    return list(caught.value.problems)


def broken(line: int, found: str) -> str:
    return f":{line}: broken YAML: {found}"


def one_phase(text: str) -> Phase:
    (phase,) = parse_config(text, FILE)
    return phase


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("+1", 1),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-11-24", "2026-11-24"),
        ("=", "="),
        ("'5e-4'", "5e-4"),
        ("!!str 5", "5"),
        ("!!float 3", 3.0),
        ("{a: [1, {b: null}]}", {"a": [1, {"b": None}]}),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = one_phase(f"p: {{defaults: {{v: {text}}}, combinations: [{{a: [1]}}]}}").defaults["v"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1,\nb: 2", broken(2, "while parsing a flow sequence: "
                               "expected ',' or ']', but got '<stream end>'")),
        ("a:\n\t- b", broken(2, "while scanning for the next token: "
                             "found character '\\t' that cannot start any token")),
        ("a: *b", broken(1, "found undefined alias 'b'")),
        ("a: 1\n---\nb: 1", broken(2, "expected a single document in the stream: "
                                   "but found another document")),
        ('a: "\\UFFFFFFFF"', broken(1, "Python int too large to convert to C int")),
        ("a: b\nc: \x00", ":2: the character '\\x00' is not printable: remove it"),
        ("", ":1: there is no phase: a mapping that holds `combinations`"),
        ("# nothing yet", ":1: there is no phase: a mapping that holds `combinations`"),
        ("defaults: {a: 1}", ":1: there is no phase: a mapping that holds `combinations`"),
        ("\n- a", ':2: must be a mapping of phases (it is ["a"])'),
        ("defaults: 3", ":1: defaults: must be a mapping of parameters, such as {epochs: 30} (it is 3)"),
        ("a: &a [*a]", DEEP),
        ("a: " + "[" * 10_000, DEEP),
        ("- " * 10_000, DEEP),
        ("? " * 10_000, DEEP),
        ("a: .nan", ":1: a: .nan is no finite number: quote it to pass a text"),
        ('a: "\\ud800"', ':1: a: "\\ud800" holds NUL or a lone surrogate: remove it'),
        ("a: !foo {b: 1}", ":1: a: !foo is nothing that JSON can hold: write it as text or numbers"),
        ("a: !!set {b}", ":1: a: !!set is nothing that JSON can hold: write it as text or numbers"),
        ("a: !!python/name:os.system x",
         ":1: a: !!python/name:os.system is nothing that JSON can hold: write it as text or numbers"),
        ("a: !!int x", ':1: a: "x" is no !!int of YAML 1.2'),
        ("a: {<<: 3}", ":1: a.<<: << merges a mapping (it is 3)"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_sweep_gets_one_clear_line(text: str, problem: str) -> None:
    assert problems_of(text)[0] == FILE + problem


def test_an_alias_bomb_gets_one_line_at_once() -> None:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    (problem,) = problems_of("\n".join(levels))
    assert problem == (f"{FILE}:1: more than 600000 values with all that aliases repeat: use fewer aliases")


def test_a_long_chain_of_aliases_counts_as_nesting() -> None:
    chain = ["l0: &l0 [x]", *(f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, 3000))]
    assert problems_of("\n".join(chain)) == [FILE + DEEP]


@pytest.mark.parametrize("text", ["defaults: &d\n  <<: *d", "defaults: &d {a: *d}", "a: &a {b: {<<: [*a]}}"])
def test_an_alias_inside_its_own_anchor_gets_one_line(text: str) -> None:
    (problem,) = problems_of(text)
    assert problem.endswith(DEEP.removeprefix(":1"))


def test_the_first_mapping_of_a_merge_list_wins_and_own_keys_win_over_both() -> None:
    text = """\
defaults:
  x: &x {a: 1, b: 1, c: 1}
  y: &y {b: 2, c: 2, d: 2}
p: {defaults: {v: {<<: [*x, *y], c: 3}}, combinations: [{k: [1]}]}
"""
    assert one_phase(text).defaults["v"] == {"a": 1, "b": 1, "c": 3, "d": 2}


_PIECES = st.sampled_from(
    ["defaults", "combinations", "seeds", "seed", "output_dir", "command", "p", ": ", "- ", "\n", "\n  ",
     "\n    ", "[", "]", "{", "}", ", ", "'", '"', "&a ", "*a", "<<: ", "!!int ", "!x ", "? ", "| ", "> ",
     "%YAML 1.2", "---", "...", "1", "1.5", "5e-4", ".nan", "~", "#", "\t", "\\", "\x85", "\ufeff", "\ud800",
     "/", "..", "{a}", "true"]
)  # fmt: skip


def is_a_sweep_or_a_config_error(text: str) -> bool:
    try:
        return bool(parse_config(text, FILE))
    except ConfigError as error:
        lines = error.problems
        return bool(lines) and all(line.startswith(FILE) and line.isprintable() for line in lines)


@examples(100)
@given(st.one_of(st.text(), st.lists(_PIECES, max_size=40).map("".join)))
@example("%YAML 1.1111111111111111111111111111111\n--- a")
@example("%TAG ! tag:a,\n--- !x a")
@example("!<tag:yaml.org,2002:merge> a: {b: 1}")
@example("a: !!merge b\n<<: [1, *x]")
@example("? {a: 1}\n: {combinations: []}")
@example("p: {combinations: [{'': [1]}], defaults: {'': 1}}")
@example("'': {combinations: [{a: [1]}]}")
def test_any_text_is_a_sweep_or_a_config_error(text: str) -> None:
    assert is_a_sweep_or_a_config_error(text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | _PIECES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_PIECES | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@examples(30)
@given(
    st.fixed_dictionaries(
        {"p": st.fixed_dictionaries({"combinations": _VALUES | st.lists(st.dictionaries(_PIECES, _VALUES))})},
        optional={"defaults": st.dictionaries(_PIECES, _VALUES), "seeds": _VALUES},
    )
)
def test_any_structure_is_a_sweep_or_a_config_error(tree: object) -> None:
    assert is_a_sweep_or_a_config_error(yaml.safe_dump(tree, allow_unicode=True))


@pytest.mark.parametrize(
    "text",
    [
        "p: &p {defaults: {v: 5e-4, w: [~, 0x1F, 'a\\tb', \"\\u00e9\"]}}\nq: *p\n",
        "p:\n  defaults: {<<: {v: 1}}\n  combinations:\n    - a: [1]\n    - b: |\n        text\n",
        "p:\n  combinations: [{a: [1, 2}]\n",
        "p:\n  combinations:\n    - a: [1]\n   - b: [2]\n",
        "p: {combinations: [{a: [!!binary x, .inf, 2026-01-01]}]}\n---\nq: 1\n",
        "p: &x [*x]\n",
        "p: *nothing\n",
        f"p: {'[' * 100}\n",
        'p: "\\UFFFFFFFF"\n',
        "p: \x07\n",
    ],
)
def test_a_large_file_is_read_as_a_small_one_and_its_mistakes_have_the_same_words(text: str) -> None:
    def outcome(text: str) -> object:
        problems = Problems(FILE)
        return read(text, problems), problems.lines

    assert outcome(text + "#" * (LARGE_CHARS + 1)) == outcome(text)
