"""Texts for people and files: cells of a row, durations, amounts, numbers, one printable line. Pure."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from distexp.task import Value

NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
_RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
MAX_LINE_CHARS = 2000  # of one message: a screen of text
_WORD = re.compile(r"""([^\s"'=]+=)?(?:"([^"]*)"|'([^']*)')(?!\S)|(\S+)""")  # quoted, or plain
_VARIES = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?")  # steps, sizes, addresses
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # no UTF-8 file can hold a lone surrogate, no CSV reader a NUL


def cell_text(value: Value) -> str:
    """Return the cell that holds `value` in rows that we write; a float comes back from it bit for bit."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return repr(value)  # pandas reads True, 0.1, 1e-05, nan and inf as what they are
    return json.dumps(value, ensure_ascii=False)


def value_of(text: str) -> Value:
    """Return the value that a text from a user or a cell stands for: JSON where it is some, else the text."""
    try:
        value: Value = json.loads(text)
    except (ValueError, RecursionError):  # the latter: it nests without end
        return text
    return value


def number_in(cell: str) -> float | None:
    """Return the finite number that a cell holds; None where it holds none."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def utc_text(moment: datetime) -> str:
    """Return a moment in UTC as it stands in rows and replies: `2026-01-31T23:59:00Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def split_words(text: str) -> list[str]:
    """Return the words between blanks; one in quotes, or whose value is (`name="a b"`), may hold blanks.

    A quote within a word, or one that is never closed, is a character like any other.
    """
    return [name + twice + once + plain for name, twice, once, plain in _WORD.findall(text)]


def join_words(words: Iterable[str]) -> str:
    """Return a text that `split_words` splits into these words."""
    return " ".join(word if split_words(word) == [word] else _quoted(word) for word in words)


def _quoted(word: str) -> str:
    return f"'{word}'" if '"' in word else f'"{word}"'


def clean_text(text: object) -> str:
    """Return the text with a replacement character for each NUL and lone surrogate."""
    return _UNWRITABLE.sub("\ufffd", str(text))


def one_line(text: str) -> str:
    """Return the text as one printable line; of a long one, which quotes somebody at length, both ends."""
    half = MAX_LINE_CHARS // 2
    cut = text if len(text) <= MAX_LINE_CHARS else f"{text[: half - 3]}...{text[-half:]}"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def last_line(text: str, default: str = "no message") -> str:
    """Return the last line that is not blank, which says most of an error; `default` where there is none."""
    return (text.strip().splitlines() or [default])[-1]


def without_numbers(message: str) -> str:
    """Return a message that is the same for all of one cause."""
    return _VARIES.sub("#", message)


def cut(text: str, chars: int) -> str:
    """Return the text, or its beginning and `...` where it has more characters than this."""
    return text if len(text) <= chars else text[: chars - 3] + "..."


def harmless_name(text: str) -> str:
    """Return a name that a folder can have on Linux, macOS and Windows alike: what one cannot hold is `_`.

    That is `<>:"|?*`, control characters, a dot or blank at the end, and before CON, nul.txt and the like.
    """
    name = NOT_ON_WINDOWS.sub("_", text)
    bare = name.rstrip(". ")
    if name not in (".", "..") and len(bare) < len(name):
        name = bare + "_" * (len(name) - len(bare))
    return f"_{name}" if _RESERVED_ON_WINDOWS.fullmatch(name) else name


def count_text(number: int, what: str) -> str:
    """Return a number and what is counted, such as `1 worker`, `2 workers`."""
    return f"{number} {what}{'s' * (number != 1)}"


def duration_text(seconds: float) -> str:
    """Return a length of time in its two largest units: `42 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    if hours < 1:
        return f"{minutes} min {whole % 60} s"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def short_duration(seconds: float) -> str:
    """Return a length of time in at most five characters, for tables: `42s`, `3m20`, `5h12`, `2d03h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, hours = whole // 60, whole // 3600
    if hours < 1:
        return f"{minutes}m{whole % 60:02d}"
    return f"{hours}h{minutes % 60:02d}" if hours < 24 else f"{hours // 24}d{hours % 24:02d}h"


def number_text(value: object) -> str:
    """Return a metric in few characters; texts and booleans as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def need_text(gpus: int | None, min_free_gb: float | None, gpu_model: Sequence[str] = ()) -> str:
    """Return what a task needs, such as `2 GPUs (A100 or H100), 12 GB free on each`; empty for nothing."""
    if gpus is None and min_free_gb is None and not gpu_model:
        return ""
    need, where = ("1 GPU", "it") if gpus in (None, 1) else (f"{gpus} GPUs", "each")
    need += f" ({' or '.join(gpu_model)})" if gpu_model else ""
    return need if min_free_gb is None else f"{need}, {min_free_gb:g} GB free on {where}"
