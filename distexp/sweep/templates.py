"""Templates with `{parameter}` placeholders: checks them, fills them, splits commands, makes folder names.

`{{` and `}}` stand for the braces. Pure.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from distexp.text import NOT_ON_WINDOWS, harmless_name

MAX_FOLDER_BYTES = 700  # macOS holds 1024 of a whole path: some are left for the rest of it
MAX_NAME_BYTES = 255  # the longest name of one folder on ext4, APFS and NTFS
FORMS = ("json", "flags", "no")  # of a placeholder in a command
MAX_SHOWN_CHARS = 200  # of a template in a message about it
_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_CONTINUED = re.compile(r"""('[^']*'|\\\S)|("(?:\\.|[^"\\])*")|\\[ \t]*\r?\n""", re.DOTALL)
_CONTINUED_IN_QUOTES = re.compile(r"(\\\S)|\\\r?\n")
_NAME = re.compile(r"[^\W\d]\w*([-.]\w+)*")  # a parameter's name, or a place in a mapping: `model.width`
_MISSING = object()


class Placeholder(NamedTuple):
    """What stands in braces: `{name}` or `{name:form}`."""

    name: str
    form: str = ""


Piece = str | Placeholder


def parse(text: str) -> list[Piece]:
    """Return the literal pieces and placeholders of a template in their order.

    Raises:
        ValueError: A brace is alone, or holds something else than a name. One line.
    """
    return list(_pieces(text))


def placeholders(text: str) -> tuple[str, ...]:
    """Return the names in the placeholders of a template without forms, each once, in order of first use.

    Raises:
        ValueError: As `parse` does, or a placeholder has a form.
    """
    names = []
    for piece in _pieces(text):
        if isinstance(piece, Placeholder):
            if piece.form:
                raise ValueError(
                    f"{short(text)!r}: {{{piece.name}:{piece.form}}} works in a `command` only: "
                    f"write {{{piece.name}}}"
                )
            names.append(piece.name)
    return tuple(dict.fromkeys(names))


def fill(text: str, values: Mapping[str, object]) -> str:
    """Return `text` with every placeholder replaced by its value, as `render` writes it.

    Values are inserted as they are: braces inside a value are not looked at again.

    Raises:
        ValueError: As `placeholders` does, or a name that `values` lacks; the message lists the known names.
    """
    placeholders(text)
    return "".join(
        piece if isinstance(piece, str) else render(value_of(piece.name, values)) for piece in _pieces(text)
    )


def value_of(name: str, values: Mapping[str, object]) -> object:
    """Return the value of that name, or what a mapping among the values holds at that dotted place.

    Raises:
        ValueError: There is none; the message lists the names that there are.
    """
    found = _find(name, values)
    if found is _MISSING:
        known = ", ".join(sorted(values)) or "none"
        raise ValueError(f"placeholder {short(f'{{{name}}}')} names no parameter. There are: {known}")
    return found


def has_value(name: str, values: Mapping[str, object]) -> bool:
    """Return whether a placeholder of that name can be filled from the values."""
    return _find(name, values) is not _MISSING


def _find(name: str, values: Mapping[str, object]) -> object:
    if name in values:
        return values[name]
    head, dot, rest = name.partition(".")
    while dot:
        if isinstance(inner := values.get(head), Mapping):
            return _find(rest, inner)
        part, dot, rest = rest.partition(".")
        head += "." + part
    return _MISSING


def render(value: object) -> str:
    """Return a string as it is, a number in its shortest exact form, the rest as JSON (`true`, `null`)."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)  # JSON's spelling of infinity is no better
    return json.dumps(value, ensure_ascii=False)


def split_command(text: str, windows: bool) -> list[str]:
    """Return the words of a command line: quotes group, `joined_lines` joins, nothing else is special.

    Args:
        windows: A backslash separates folders, and does not quote the next character.

    Raises:
        ValueError: An open quote.
    """
    lexer = shlex.shlex(joined_lines(text), posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", "" if windows else "\\"
    return list(lexer)


def joined_lines(text: str) -> str:
    """Return a command without backslashes that end a line, and those line breaks, as a shell reads it.

    Differs: blanks after such a backslash are taken out too; nobody sees them, or wants them as an argument.
    """

    def joined(found: re.Match[str]) -> str:
        return found[1] or _CONTINUED_IN_QUOTES.sub(r"\1", found[2] or "")

    return _CONTINUED.sub(joined, text)


def output_folder(template: str, values: Mapping[str, object]) -> str:
    """Return the folder as a relative path with `/` and no leading `./`; `.` is the working folder itself.

    Characters that Windows cannot hold become `_` where they come out of a value (`openml:mnist_784` gives
    `openml_mnist_784`), and are refused in the template's own text. The rest is as `harmless_name` makes it.
    Two values that become one folder so do no harm: their rows are told apart by their columns.

    Raises:
        ValueError: The template is broken, lacks a value, or leaves the working folder. One line.
    """
    path = fill(template, {n: _harmless(n, value_of(n, values)) for n in placeholders(template)})
    if path.startswith(("/", "~")) or re.match("[A-Za-z]:", path):
        raise ValueError(f"{template} must be a path below the working folder, such as ./results_1")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise ValueError(f"{template} must not leave the working folder by ..")
        if forbidden := re.search(r"\\", part) or NOT_ON_WINDOWS.search(part):
            raise ValueError(
                f"{template} has {forbidden[0]!r}, which Windows cannot hold: use / and other characters"
            )
        if len(part.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"{template} makes a folder name of {len(part.encode())} bytes: {MAX_NAME_BYTES} is the most"
            )
    folder = "/".join(map(harmless_name, parts)) or "."
    if len(folder.encode()) > MAX_FOLDER_BYTES:
        raise ValueError(
            f"{template} makes a path of {len(folder.encode())} bytes: {MAX_FOLDER_BYTES} is the most"
        )
    return folder


def _harmless(name: str, value: object) -> str:
    text = render(value)
    if "/" in text or "\\" in text or ".." in text:
        raise ValueError(
            f"{text[:60]!r} cannot stand for {{{name}}} in output_dir: folder names hold no / \\ and .."
        )
    return NOT_ON_WINDOWS.sub("_", text)


def short(text: str) -> str:
    """Return a text as it stands in a message, cut when it is long."""
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


def _pieces(text: str) -> Iterator[Piece]:
    for token in _TOKEN.findall(text):
        if token in ("{{", "}}"):
            yield token[0]
        elif token in ("{", "}"):
            raise ValueError(
                f"{short(text)!r} has a lone {token}: write {{name}}, or {token * 2} for the brace itself"
            )
        elif token.startswith("{"):
            name, colon, form = token[1:-1].partition(":")
            if not _NAME.fullmatch(name) or (colon and form not in FORMS):
                wanted = f"{{name}}, {{name:{'}, {name:'.join(FORMS)}}}, or {{{{ and }}}} for braces"
                raise ValueError(f"{short(text)!r} has {short(token)}: write {wanted}")
            yield Placeholder(name, form)
        else:
            yield token
