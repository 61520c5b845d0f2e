"""`command:` templates: checks them, and fills them to the words of a program's command line. Pure.

The text is split like a shell line first, and each word is filled with values after, so that a value with
spaces or quotes stays one argument.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distexp.sweep.templates import (
    Piece,
    Placeholder,
    has_value,
    joined_lines,
    parse,
    render,
    split_command,
    value_of,
)

# What a command may name beside parameters: the run's own.
RUN_NAMES = ("seed", "output_dir", "checkpoint_dir", "run_dir", "device", "gpus", "attempt")
REST_NAMES = {"args": ("", "flags", "no"), "overrides": ("",)}  # every parameter that is not named, as words
QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.""", re.DOTALL)  # what a shell takes as it stands
SHELL_OPERATORS = ("&&", "||", "2>&1")
SHELL_OPERATORS_BEFORE_A_WORD = ("|", ">", ">>", "2>", "&>", ";")  # else an argument of a program
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")  # at the start of a command: PYTHONPATH=. python train.py
_EXPANSION = re.compile(r"\$(?:[A-Za-z_]\w*|\(|\{[A-Z_]+\})|`")  # what a shell puts something in place of
_SET = r"[^\s=]+=\S*"  # a word such as lr={lr}, which Hydra reads
_OWN_LINE = re.compile(rf"\n(?=[^\s{{-])(?!{_SET}([ \t]+{_SET})*[ \t\r]*(\n|$))")
_SAFE_IN_HYDRA = re.compile(r"[A-Za-z_/][\w/.+@-]*", re.ASCII)
_NOT_TEXT_IN_HYDRA = ("true", "false", "null", "nan", "inf")  # in any case; Hydra reads these as other values

Word = list[Piece]


@dataclass(frozen=True)
class Command:
    """A command template, split into words and parsed."""

    words: Sequence[Word]
    takes_rest: bool  # every parameter that it does not name reaches it

    @property
    def names(self) -> tuple[str, ...]:
        """The names in its placeholders, each once; also `args` and `overrides`."""
        found = [piece.name for word in self.words for piece in word if isinstance(piece, Placeholder)]
        return tuple(dict.fromkeys(found))


def parse_command(text: str, windows: bool, known: Sequence[str] = ()) -> Command:
    """Return the template of a command.

    Args:
        windows: A backslash separates folders, and does not quote the next character.
        known: Names of parameters; one that is called `args` keeps its meaning.

    Raises:
        ValueError: An open quote, no words, a malformed placeholder, or one that must stand alone. One line.
    """
    try:
        words = [parse(word) for word in split_command(text, windows)]
    except ValueError as error:
        problem = "has an open quote" if "quotation" in str(error) else str(error)
        raise ValueError(f"{text!r} {problem}" if "quotation" in str(error) else problem) from None
    if not words:
        raise ValueError("a command needs a program and its arguments")
    for word in words:
        for piece in word:
            if isinstance(piece, Placeholder) and piece.name in REST_NAMES and piece.name not in known:
                if len(word) > 1 or piece.form not in REST_NAMES[piece.name]:
                    forms = [f"{{{piece.name}{':' * bool(form)}{form}}}" for form in REST_NAMES[piece.name]]
                    raise ValueError(f"write {' or '.join(forms)} as a word of its own")
            elif isinstance(piece, Placeholder) and piece.form not in ("", "json"):
                raise ValueError(
                    f"{{{piece.name}:{piece.form}}} is for {{args}} only: write {{{piece.name}}}"
                )
    rest = [found for word in words if (found := _rest_of(word)) and found.name not in known]
    return Command(words, takes_rest=bool(rest))


def shell_operator(text: str) -> str:
    """Return the first word of a command, outside of quotes, that only a shell understands; empty without."""
    words = QUOTED.sub("q", joined_lines(text)).split()
    pairs = zip(words, [*words[1:], "-"], strict=True)
    return next(
        (
            word
            for word, after in pairs
            if word in SHELL_OPERATORS
            or (word in SHELL_OPERATORS_BEFORE_A_WORD and not after.startswith("-"))
        ),
        "",
    )


def shell_syntax(text: str) -> str:
    """Return why words of a command, outside of quotes, mean something to a shell alone; empty without."""
    words = QUOTED.sub("q", joined_lines(text)).split()
    if words and (assigned := _ASSIGNMENT.match(words[0])):
        how = f'write env before it (Windows: cmd /c "set {assigned[0]}...&& ...")'
        return f"{assigned[0]}... sets a variable in a shell, and no shell runs: {how}"
    expanded = _EXPANSION.search(" ".join(words))
    does_end = any(len(word) > 1 and word.endswith(";") for word in words[:-1])
    if found := expanded[0] if expanded else ";" * does_end:
        return f"{found} is a shell's, and no shell runs: write bash -c '...', or quote it to pass it on"
    return ""


def second_command(text: str) -> str:
    """Return the first line of a command that a shell would run as a command of its own; empty without.

    An indented line, one that begins with a flag or a placeholder, and one that holds words such as `lr={lr}`
    alone, can only be meant to go on.
    """
    joined = joined_lines(text).strip()
    unquoted = QUOTED.sub(lambda found: "q" * len(found[0]), joined)
    found = _OWN_LINE.search(unquoted)
    return joined[found.end() :].splitlines()[0].strip() if found else ""


def fill_command(
    text: str,
    parameters: Mapping[str, object],
    own: Mapping[str, object],
    *,
    windows: bool = False,
    with_seed: bool = False,
) -> list[str]:
    """Return the words of a program's command line.

    Args:
        parameters: Of the task, nested ones at their places in their mappings.
        own: What the run itself fills, such as `seed`; these win over parameters.
        with_seed: `{args}` holds the seed too.

    Raises:
        ValueError: As `parse_command` does, or no program is left.
    """
    command = parse_command(text, windows, list(parameters))
    values = {**parameters, **own}
    rest = _without(parameters, command.names)
    if with_seed and "seed" not in command.names:
        rest["seed"] = own["seed"]
    words: list[str] = []
    for at, word in enumerate(command.words):
        flag = _flag(command.words[at - 1]) if at else False
        if (taken := _rest_of(word)) and taken.name not in values:
            words += _REST[taken.name, taken.form](rest)
        elif (filled := _fill(word, values, flag)) is not None:
            words += filled
        elif flag:  # it waits for the value that is null
            words.pop()
    if not words or not words[0]:
        raise ValueError(f"{text!r}: no program is left to run")
    return words


def _rest_of(word: Word) -> Placeholder | None:
    """Return the placeholder of a word that stands for all other parameters."""
    (piece, *others) = word or [""]
    return piece if isinstance(piece, Placeholder) and piece.name in REST_NAMES and not others else None


def _flag(word: Word) -> bool:
    """Return whether a word is a flag that may wait for a value: `-x` or `--x`."""
    text = word[0] if len(word) == 1 else None
    return isinstance(text, str) and text.startswith("-") and text.strip("-") != "" and "=" not in text


def _fill(word: Word, values: Mapping[str, object], after_flag: bool) -> list[str] | None:
    """Return what becomes of a word; None where its value is null and it was this value alone."""
    if len(word) == 1 and isinstance(alone := word[0], Placeholder) and not alone.form:
        value = _value(alone, values)
        if value is None:
            return None
        if isinstance(value, list | tuple) and not any(isinstance(item, list | dict) for item in value):
            return [render(item) for item in value]
        return [] if value == "" and not after_flag else [render(value)]
    if len(word) == 2 and isinstance(head := word[0], str) and isinstance(named := word[1], Placeholder):
        is_option = head.startswith("-") and head.endswith("=") and head.count("=") == 1
        if is_option and not named.form and _value(named, values) is None:
            return []
    return ["".join(_piece(piece, values) for piece in word)]


def _value(piece: Placeholder, values: Mapping[str, object]) -> object:
    """Return what a placeholder stands for; null for a parameter that this combination lacks."""
    return value_of(piece.name, values) if has_value(piece.name, values) else None


def _piece(piece: Piece, values: Mapping[str, object]) -> str:
    if isinstance(piece, str):
        return piece
    value = _value(piece, values)
    return _json(value) if piece.form == "json" else render(value)


def _without(parameters: Mapping[str, object], names: Sequence[str], path: str = "") -> dict[str, object]:
    """Return the parameters, and places in mappings, that no placeholder names and that are not null."""
    rest: dict[str, object] = {}
    for name, value in parameters.items():
        place = f"{path}{name}"
        if value is None or place in names:
            continue
        if isinstance(value, Mapping) and any(other.startswith(f"{place}.") for other in names):
            if left := _without(value, names, f"{place}."):
                rest[name] = left
        else:
            rest[name] = value
    return rest


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_wandb(rest: Mapping[str, object]) -> Iterator[str]:
    for name, value in rest.items():
        yield f"--{name}={str(value) if isinstance(value, bool) else render(value)}"


def _as_flags(rest: Mapping[str, object], absent: str = "") -> Iterator[str]:
    for name, value in rest.items():
        if isinstance(value, bool):
            if value or absent:
                yield f"--{'' if value else absent}{name}"
        elif isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
            yield from (f"--{name}", *(render(item) for item in value))
        else:
            yield f"--{name}={render(value)}"


def _as_switches(rest: Mapping[str, object]) -> Iterator[str]:
    return _as_flags(rest, absent="no-")


def _as_hydra(rest: Mapping[str, object], path: str = "") -> Iterator[str]:
    """Yield overrides by https://hydra.cc/docs/advanced/override_grammar/basic/."""
    for name, value in rest.items():
        if isinstance(value, Mapping) and value:
            yield from _as_hydra(
                {key: item for key, item in value.items() if item is not None}, f"{path}{name}."
            )
        else:
            yield f"{path}{name}={_hydra_value(value)}"


def _hydra_value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_hydra_text(key)}:{_hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_hydra_value, value)) + "]"
    return _hydra_text(value) if isinstance(value, str) else render(value)


def _hydra_text(text: str) -> str:
    if _SAFE_IN_HYDRA.fullmatch(text) and text.lower() not in _NOT_TEXT_IN_HYDRA:
        return text
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", text)  # a backslash is one unless a quote follows
    return "'" + doubled.replace("'", "\\'") + "'"


_REST = {
    ("args", ""): _as_wandb,
    ("args", "flags"): _as_flags,
    ("args", "no"): _as_switches,
    ("overrides", ""): _as_hydra,
}
