"""Seeded damage to texts, as wires and editors do it, and worse. Pure: the same `Random`, the same damage."""

import re
from collections.abc import Callable, Sequence
from random import Random

CHANGES = (1, 1, 2, 3)  # to one text: more of them and nothing behind the parser is ever reached
_WORD = re.compile(rb"\w+")
MAX_CHUNK = 200  # bytes that are doubled, moved or lost at once


def mutated(random: Random, text: bytes, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return `text` with 1 to 3 changes; `others` assign chunks, `tokens` are put in whole."""
    for _ in range(random.choice(CHANGES)):
        change = random.choice(_CHANGES)
        text = change(random, text, random.choice(others), random.choice(tokens))
    return text


def _span(random: Random, text: bytes) -> tuple[int, int]:
    start = random.randint(0, len(text))
    return start, min(len(text), start + random.randint(1, MAX_CHUNK))


def _flip_bit(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    if not text:
        return text
    at = random.randrange(len(text))
    return text[:at] + bytes([text[at] ^ (1 << random.randrange(8))]) + text[at + 1 :]


def _cut_end(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    return text[: random.randint(0, len(text))]


def _lose_chunk(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    start, end = _span(random, text)
    return text[:start] + text[end:]


def _double_chunk(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    start, end = _span(random, text)
    return text[:end] + text[start:]


def _move_chunk(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    start, end = _span(random, text)
    rest = text[:start] + text[end:]
    at = random.randint(0, len(rest))
    return rest[:at] + text[start:end] + rest[at:]


def _borrow_chunk(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    start, end = _span(random, other)
    at = random.randint(0, len(text))
    return text[:at] + other[start:end] + text[at:]


def _put_token(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    start, end = _span(random, text)
    return text[:start] + token + text[random.choice((start, end)) :]


def _change_number(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    digits = [at for at, byte in enumerate(text) if byte in b"0123456789"]
    if not digits:
        return text
    at = random.choice(digits)
    return text[:at] + random.choice((b"-1", b"99999999999999999999", b"1e999", b".", b"0x")) + text[at + 1 :]


def _change_word(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    words = list(_WORD.finditer(text))
    assigned: list[bytes] = _WORD.findall(other)
    if not words or not assigned:
        return text
    word = random.choice(words)
    return text[: word.start()] + random.choice(assigned) + text[word.end() :]


def _lose_line(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    if lines:
        del lines[random.randrange(len(lines))]
    return b"".join(lines)


def _borrow_line(random: Random, text: bytes, other: bytes, token: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    lines.insert(random.randint(0, len(lines)), random.choice(other.splitlines(keepends=True) or [b"\n"]))
    return b"".join(lines)


_CHANGES: tuple[Callable[[Random, bytes, bytes, bytes], bytes], ...] = (
    _flip_bit,
    _cut_end,
    _lose_chunk,
    _double_chunk,
    _move_chunk,
    _borrow_chunk,
    _put_token,
    _change_number,
    _change_word,
    _change_word,
    _lose_line,
    _borrow_line,
)
