import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp.sweep.templates import fill, placeholders, render
from tests.support import examples


def test_names_come_once_in_the_order_of_their_first_use() -> None:
    assert placeholders("./results_{b}_{a}/{b}") == ("b", "a")
    assert placeholders("no names, {{literal}}") == ()


def test_values_replace_placeholders_and_doubled_braces_become_single() -> None:
    assert fill("{{{dataset}}}_{width_factor}", {"dataset": "wine", "width_factor": 8}) == "{wine}_8"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        ("a b", "a b"),
        (8, "8"),
        (5e-4, "0.0005"),
        (1e-05, "1e-05"),
        (1.0, "1.0"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ([1, 2.5, "é"], '[1, 2.5, "é"]'),
        ({"a": [True, None]}, '{"a": [true, null]}'),
    ],
)
def test_a_value_is_rendered_without_a_trace_of_python(value: object, text: str) -> None:
    assert render(value) == text
    assert fill("x{v}y", {"v": value}) == f"x{text}y"


def test_braces_inside_a_value_are_not_looked_at_again() -> None:
    assert fill("{a}-{b}", {"a": "{b}", "b": "{{"}) == "{b}-{{"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x{", "has a lone {: "),
        ("x}", "has a lone }: "),
        ("{a", "has a lone {: "),
        ("{}", "has {}: "),
        ("{0}", "has {0}: "),
        ("{a..b}", "has {a..b}: "),
        ("{a!r}", "has {a!r}: "),
        ("{a:>3}", "has {a:>3}: "),
        ("{a[0]}", "has {a[0]}: "),
        ("{ a }", "has { a }: "),
    ],
)
def test_a_malformed_placeholder_is_refused_in_one_line(text: str, found: str) -> None:
    for function in (placeholders, lambda malformed: fill(malformed, {"a": 1})):
        with pytest.raises(ValueError, match=re.escape(f"{text!r} {found}write ")) as refusal:
            function(text)
        assert "\n" not in str(refusal.value)


def test_of_a_long_template_the_message_shows_the_beginning() -> None:
    with pytest.raises(ValueError) as refusal:
        placeholders("y" * 5000 + "{" + "x" * 5000 + "!}")
    shown, placeholder = "y" * 197 + "...", "{" + "x" * 196 + "..."
    assert str(refusal.value).startswith(f"{shown!r} has {placeholder}: write {{name}}, ")


def test_a_placeholder_without_a_value_is_refused_with_the_known_names() -> None:
    expected = "placeholder {widht} names no parameter. There are: depth, width"
    with pytest.raises(ValueError, match=re.escape(expected)):
        fill("run_{widht}", {"width": 1, "depth": 2})


@examples(100)
@given(st.text())
def test_any_text_survives_escaping_and_filling(text: str) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert placeholders(escaped) == ()
    assert fill(escaped, {}) == text
    assert fill("{value}", {"value": text}) == text
