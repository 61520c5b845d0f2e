"""Texts with `{parameter}` placeholders: `output_dir` and `command:`. `{{` and `}}` stand for the braces.

Pure.
"""

import json
import re
from collections.abc import Iterator, Mapping

MAX_SHOWN_CHARS = 200  # of a template in a message about it
_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_NAME = re.compile(r"[^\W\d]\w*(-\w+)*")  # a parameter name, as YAML keys are written


def placeholders(text: str) -> tuple[str, ...]:
    """Return the names in `{name}` placeholders, each once, in the order of their first use.

    Raises:
        ValueError: A brace is alone, or holds something else than a name. One line: text, found, expected.
    """
    return tuple(dict.fromkeys(token for token, is_name in _tokens(text) if is_name))


def fill(text: str, values: Mapping[str, object]) -> str:
    """Return `text` with every placeholder replaced by its value, as `render` writes it.

    Values are inserted as they are: braces inside a value are not looked at again.

    Raises:
        ValueError: As `placeholders` does, or a name that `values` lacks; the message lists the known names.
    """
    parts = []
    for token, is_name in _tokens(text):
        if is_name and token not in values:
            known = ", ".join(sorted(values)) or "none"
            raise ValueError(
                f"{_short(text)!r}: found placeholder {_short(f'{{{token}}}')}, "
                f"expected one of the parameters: {known}"
            )
        parts.append(render(values[token]) if is_name else token)
    return "".join(parts)


def render(value: object) -> str:
    """Return a string as it is, a number in its shortest exact form, the rest as JSON (`true`, `null`)."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)  # JSON's spelling of infinity is no better
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Yield literal pieces (text, False) and placeholders (name, True)."""
    for token in _TOKEN.findall(text):
        if token in ("{{", "}}"):
            yield token[0], False
        elif token in ("{", "}"):
            raise ValueError(
                f"{_short(text)!r}: found a lone {token}, expected {{name}}, or {token * 2} for the brace"
            )
        elif token.startswith("{"):
            if not _NAME.fullmatch(token[1:-1]):
                expected = "a plain {name}, or {{ and }} for braces"
                raise ValueError(f"{_short(text)!r}: found placeholder {_short(token)}, expected {expected}")
            yield token[1:-1], True
        else:
            yield token, False
