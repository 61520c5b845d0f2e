"""Templates with `{parameter}` placeholders: checks them, fills them, splits commands, makes folder names.

`{{` and `}}` stand for the braces. Pure.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping

_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
MAX_FOLDER_BYTES = 700  # macOS holds 1024 of a whole path: some are left for the rest of it
MAX_NAME_BYTES = 255  # the longest name of one folder on ext4, APFS and NTFS
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


def split_command(text: str, windows: bool) -> list[str]:
    """Return the words of a command line: quotes group, nothing else is special.

    Args:
        windows: A backslash separates folders, and does not quote the next character.

    Raises:
        ValueError: An open quote.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", "" if windows else "\\"
    return list(lexer)


def output_folder(template: str, values: Mapping[str, object]) -> str:
    """Return the folder as a relative path with `/` and no leading `./`; `.` is the working folder itself.

    Characters that Windows cannot hold become `_` where they come out of a value (`openml:mnist_784` gives
    `openml_mnist_784`), and are refused in the template's own text. Two values that become one folder so do
    no harm: their rows are told apart by their columns.

    Raises:
        ValueError: The template is broken, lacks a value, or leaves the working folder. One line.
    """
    used = set(placeholders(template))
    path = fill(template, {n: _harmless(n, value) if n in used else "" for n, value in values.items()})
    if path.startswith(("/", "~")) or re.match("[A-Za-z]:", path):
        raise ValueError(f"found {template}, expected a path below the working folder, such as ./results_1")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise ValueError(
                f"found {template}, expected a path that does not leave the working folder by .."
            )
        if forbidden := re.search(r"\\", part) or _NOT_ON_WINDOWS.search(part):
            raise ValueError(
                f"found {forbidden[0]!r} in {template}, expected / and characters Windows can hold"
            )
        if len(part.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"found a folder name of {len(part.encode())} bytes, expected at most {MAX_NAME_BYTES}"
            )
    folder = "/".join(parts) or "."
    if len(folder.encode()) > MAX_FOLDER_BYTES:
        raise ValueError(f"found a path of {len(folder.encode())} bytes, expected at most {MAX_FOLDER_BYTES}")
    return folder


def _harmless(name: str, value: object) -> str:
    text = render(value)
    if "/" in text or "\\" in text or ".." in text:
        raise ValueError(
            f"found {text[:60]!r} for {{{name}}} of output_dir, expected a value without / \\ and .."
        )
    return _NOT_ON_WINDOWS.sub("_", text)


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
