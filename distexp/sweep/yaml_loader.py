"""YAML 1.2 text to a tree of values that know their lines, and the problems noted on the way.

PyYAML reads YAML 1.1 (`5e-4` is a string there, `yes` a boolean, `1:30` a number). Here plain scalars follow
the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema); anchors, aliases and the merge key
`<<` of YAML 1.1 still work. What JSON cannot hold is refused: other tags, keys that are no text.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from distexp.task import Value
from distexp.text import one_line

LARGE_CHARS = 100_000  # of a file that libyaml reads, ten times as fast
MAX_DEPTH = 50  # a sweep nests five levels; the reader recurses, and Python ends at about 1000
MAX_PATH_CHARS = 300  # of a place in a message; each of 600,000 nodes has its own
MAX_SHOWN = 100  # problems of one file; more are one mistake made many times
MAX_VALUES = 600_000  # more than a file of 1 MiB holds without aliases; a billion laughs ends here

# tag -> what a plain scalar of it looks like, and the characters it can start with; the first match wins
_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
_FORMS = {tag: re.compile(pattern) for tag, (pattern, _) in _CORE.items()}
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels: is an alias inside its own anchor?"
_TOO_MANY = f"more than {MAX_VALUES} values with all that aliases repeat: use fewer aliases"
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place: `value` is a dict[str, Node], a list[Node] or a scalar."""

    value: Any
    line: int
    path: str  # as messages show it: `exp1.combinations[2].width_factor`; cut when it is long


class Problems:
    """The problems of one file, one line of text each; a place (line and path) is reported once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines: dict[tuple[int, str], str] = {}

    def add(self, line: int, path: str, text: str) -> None:
        """Note `text` (what is wrong, what to do) for a place; an empty `path` means the file as a whole."""
        shown = f"{self.name}:{line}: {path + ': ' if path else ''}{text}"
        self._lines.setdefault((line, path), one_line(shown))

    def at(self, node: Node, text: str) -> None:
        """Note `text` for the place of `node`."""
        self.add(node.line, node.path, text)

    def has(self, node: Node) -> bool:
        """Return whether something is noted for the place of `node`."""
        return (node.line, node.path) in self._lines

    @property
    def lines(self) -> list[str]:
        """The problems by line of the file; of very many, the first `MAX_SHOWN` and their number."""
        lines = [self._lines[place] for place in sorted(self._lines, key=lambda place: place[0])]
        more = [f"{self.name}: and {len(lines) - MAX_SHOWN} problems more"] if len(lines) > MAX_SHOWN else []
        return lines[:MAX_SHOWN] + more


def plain(node: Node) -> Value:
    """Return the value without its places."""
    if isinstance(node.value, dict):
        return {name: plain(item) for name, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value


def read(text: str, problems: Problems) -> Node | None:
    """Return the tree of the one document in `text`; None when there is none or it is broken.

    Every problem goes to `problems`. A part that cannot be held becomes None in the tree.
    """
    try:
        root = _read_large(text) if len(text) > LARGE_CHARS else None
        if root is None:
            loader = _Loader(text)
            root = loader.get_single_node()
        return None if root is None else _Builder(problems).build(root, "", _line(root.start_mark))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.add(line, "", f"the character {chr(error.character)!r} is not printable: remove it")
    except _Refused as error:
        problems.add(_line(error.problem_mark), "", str(error.problem))
    except yaml.MarkedYAMLError as error:
        found = ": ".join(part for part in (error.context, error.problem) if part)
        problems.add(_line(error.problem_mark), "", f"broken YAML: {found}")
    except (ValueError, OverflowError) as error:  # PyYAML lets them through for "\UFFFFFFFF" and the like
        problems.add(loader.line + 1, "", f"broken YAML: {error}")
    return None


def _read_large(text: str) -> yaml.Node | None:
    """Return what libyaml reads; None where it finds fault, which the other reader says more clearly."""
    try:
        return _LargeLoader(text).get_single_node() if yaml.__with_libyaml__ else None
    except (yaml.YAMLError, ValueError, OverflowError):
        return None


def _line(mark: yaml.Mark | None) -> int:
    return 1 if mark is None else mark.line + 1


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is too deep or too large."""


class _CoreComposer(Composer, Resolver):
    """Composes nodes with the tags of the core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's name
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose as PyYAML does, which recurses, down to `MAX_DEPTH` levels."""
        if self.depth >= MAX_DEPTH:
            raise _Refused(problem=_TOO_DEEP, problem_mark=self.peek_event().start_mark)  # type: ignore[attr-defined]
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, (_pattern, _first) in _CORE.items():
    _CoreComposer.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


class _Loader(_CoreComposer, yaml.SafeLoader):
    pass


if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class _LargeLoader(_CoreComposer, CParser):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            Resolver.__init__(self)


class _Builder:
    """Turns YAML nodes into `Node`s; what is named by an alias is built again at each use."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._built = self._depth = 0

    def build(self, node: yaml.Node, path: str, line: int) -> Node:
        """Return the tree below `node`; `line` is its key's, or its own where it has no key."""
        self._built += 1
        if self._built > MAX_VALUES:
            raise _Refused(problem=_TOO_MANY, problem_mark=node.start_mark)
        if self._depth >= MAX_DEPTH:
            raise _Refused(problem=_TOO_DEEP, problem_mark=node.start_mark)
        self._depth += 1
        built = self._build(node, path, line)
        self._depth -= 1
        return built

    def _build(self, node: yaml.Node, path: str, line: int) -> Node:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return Node(self._mapping(node, path), line, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = enumerate(node.value)
            return Node(
                [self.build(i, _cut(f"{path}[{n}]"), _line(i.start_mark)) for n, i in items], line, path
            )
        try:
            return Node(_scalar(node), line, path)
        except ValueError as error:
            self._problems.add(line, path, str(error))
            return Node(None, line, path)  # this place is reported; what else is said of it stays silent

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            line = _line(key.start_mark)
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            place = _cut(f"{path}.{name}" if path else name)
            if key.tag == _TAG + "merge":
                merged |= self._merged(value, place, path)
            elif name in own:
                self._problems.add(
                    line, place, f"stands here twice, first at line {own[name].line}: keep one"
                )
            else:
                if not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
                    self._problems.add(line, place, "a key must be text: put it in quotes")
                own[name] = self.build(value, place, line)
        return merged | own

    def _merged(self, node: yaml.Node, place: str, path: str) -> dict[str, Node]:
        """Return what `<<: *anchor` or `<<: [*a, *b]` brings; of several, the first that has a key wins."""
        merged: dict[str, Node] = {}
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if isinstance(source, yaml.MappingNode):
                merged |= self.build(source, path, _line(source.start_mark)).value or {}
            else:
                found = source.value if isinstance(source, yaml.ScalarNode) else "a list"
                self._problems.add(_line(source.start_mark), place, f"<< merges a mapping (it is {found})")
        return merged


def _cut(path: str) -> str:
    return path if len(path) <= MAX_PATH_CHARS else path[: MAX_PATH_CHARS - 3] + "..."


def _scalar(node: yaml.Node) -> Value:
    """Return the value of a scalar; ValueError says what is wrong."""
    kind = node.tag.removeprefix(_TAG)
    shown = f"!!{kind}" if kind != node.tag else kind
    if not isinstance(node, yaml.ScalarNode) or kind not in _PARSE:
        raise ValueError(f"{shown} is nothing that JSON can hold: write it as text or numbers")
    forms = ("int", "float") if kind == "float" else (kind,)
    if kind != "str" and not any(_FORMS[form].fullmatch(node.value) for form in forms):
        raise ValueError(f"{json.dumps(node.value)} is no {shown} of YAML 1.2")
    return _PARSE[kind](node.value)


def _text(text: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{json.dumps(text)} holds NUL or a lone surrogate: remove it")
    return text


def _int(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    number = int(text, base) if len(text) <= 100 else 2**64  # Python refuses to read thousands of digits
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text[:30]} has more than 64 bits: quote it to pass a text")
    return number


def _float(text: str) -> float:
    if text[-3:].lower() in ("inf", "nan"):
        raise ValueError(f"{text} is no finite number: quote it to pass a text")
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:30]} is above 1.8e308, the largest number: quote it to pass a text")
    return number


_PARSE: dict[str, Callable[[str], Value]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
    "str": _text,
}
