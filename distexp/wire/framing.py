"""Messages to bytes and back: encode, decode, cut a stream into messages, and the sizes allowed. No I/O.

One JSON object a message, UTF-8. A newline ends it, but a complete object without one is answered too;
replies end with a newline. Requests may hold NaN and Infinity, which Python's `json` writes.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from distexp.errors import ProtocolError
from distexp.wire.messages import AnyReply, AnyRequest

MAX_MESSAGE_BYTES = 1024 * 1024  # a task or a result is some kB; a megabyte is a mistake or an attack
MAX_STATUS_BYTES = 1024  # users' clients read the whole reply with one recv(1024)
MESSAGE_S = 10.0  # a message that has begun is complete by then, or its sender is stuck
IDLE_S = 120.0  # a silent connection without a lease is forgotten
MAX_NEWER_FIELDS = 100  # of a client of a later version; each costs one more look at the message
MAX_GUESSES = 64  # looks at an object without newline: enough for 1 MiB in network-sized pieces
SLOW_GUESS = 4  # looks that one by the standard library counts for

Message = TypeVar("Message")

_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_replies: msgspec.json.Decoder[AnyReply] = msgspec.json.Decoder(AnyReply)
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.(\w+)`)?")
_UNKNOWN_VALUE = re.compile(r"Invalid enum value .* - at `\$\.(\w+)`", re.DOTALL)
_NOT_STRICT = re.compile(rb"NaN|Infinity|}[ \t\r]*{")  # what may need a look by the standard library
_GLUED = re.compile(rb"}[ \t\r]*{")
_OPENS = re.compile(r"[ \t\r\n]*(?=\{)")
_lenient = json.JSONDecoder()
_encode = msgspec.json.Encoder(decimal_format="number").encode


def encode(message: AnyRequest | AnyReply) -> bytes:
    """Return one line, newline included.

    Raises:
        ProtocolError: It would be larger than `MAX_MESSAGE_BYTES`.
    """
    line = _encode(message) + b"\n"
    if len(line) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"message: too large ({len(line)} bytes; at most {MAX_MESSAGE_BYTES})")
    return line


def decode_request(line: bytes) -> AnyRequest:
    """Return the request; fields that are not known are ignored if it names the version of its client.

    Raises:
        ProtocolError: It is none; the message names the field and what is wrong with it.
    """
    try:
        return _decode(_requests, line)
    except ProtocolError as error:
        return _of_another_version(line, error)


def _of_another_version(line: bytes, error: ProtocolError) -> AnyRequest:
    """Return the request without what is not known in it, if it names a version; else raise."""
    try:
        fields: Any = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = _lenient_fields(line)
    if not isinstance(fields, dict) or not isinstance(fields.get("version"), str):
        raise error
    for _ in range(MAX_NEWER_FIELDS):
        try:
            return msgspec.convert(fields, type=AnyRequest)  # type: ignore[no-any-return]
        except msgspec.ValidationError as problem:
            place, name = _unknown_in(fields, str(problem))
            if name not in place:
                raise _refusal(problem) from None
            del place[name]
    raise error


def _unknown_in(fields: dict[str, Any], problem: str) -> tuple[dict[str, Any], str]:
    """Return where in a request stands what is not known by this version, and the name of that field."""
    if found := _UNKNOWN_VALUE.fullmatch(problem):
        return fields, found[1]  # without it the default holds, as for one who never named it
    found = _UNKNOWN.fullmatch(problem)
    return (fields.get(found[2], {}) if found[2] else fields, found[1]) if found else ({}, "")


def decode_reply(line: bytes) -> AnyReply:
    """Return the reply.

    Raises:
        ProtocolError: It is none.
    """
    return _decode(_replies, line)


def _decode(decoder: msgspec.json.Decoder[Message], line: bytes) -> Message:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem: Exception = error
        if (fields := _lenient_fields(line)) is not None:
            try:
                return decoder.decode(_encode(fields))
            except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError, OverflowError) as other:
                problem = other if isinstance(other, msgspec.MsgspecError) else error
        raise _refusal(problem) from None


def _lenient_fields(line: bytes) -> Any:
    """Return what Python's `json` reads where NaN or Infinity stands in a message; None where it cannot.

    Those numbers are texts in it, as in a row: nan, inf, -inf.
    """
    if b"NaN" in line or b"Infinity" in line:
        with suppress(ValueError, RecursionError):
            return json.loads(line.decode(), parse_constant=_finite_or_text, parse_float=_finite_or_text)
    return None


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else str(number)


def _refusal(error: Exception) -> ProtocolError:
    return ProtocolError(f"message: {error}; docs/protocol.md lists every message")


class MessageReader:
    """Cuts the bytes of one connection into messages, as they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._guesses = 0

    @property
    def is_mid_message(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._buffer.strip())

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes, in order, without their newlines.

        Raises:
            ProtocolError: A message grew beyond `MAX_MESSAGE_BYTES`; the connection is of no more use.
        """
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        if lines:
            self._guesses = 0
        messages = [message for line in lines if line.strip() for message in _objects_of(bytes(line))]
        if whole := self._whole():
            messages += whole
            self._guesses = 0
        if any(len(line) > MAX_MESSAGE_BYTES for line in (*messages, self._buffer)):
            raise ProtocolError(f"message: too large (more than {MAX_MESSAGE_BYTES} bytes)")
        return messages

    def _whole(self) -> list[bytes]:
        """Take the complete objects out of the buffer though no newline came (yet)."""
        if not self._buffer.rstrip().endswith(b"}") or len(self._buffer) > MAX_MESSAGE_BYTES:
            return []
        self._guesses += 1
        if self._guesses > MAX_GUESSES:
            return []
        data = bytes(self._buffer)
        try:
            msgspec.json.decode(data, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError):
            if not _NOT_STRICT.search(data):
                return []
            self._guesses += SLOW_GUESS - 1
            found = [*_objects_at_front(data)]
        else:
            found = [data]
        del self._buffer[: sum(map(len, found))]
        return found


def _objects_of(line: bytes) -> list[bytes]:
    """Return the objects that were sent on one line; a line that is none as it is."""
    found = [*_objects_at_front(line)] if _GLUED.search(line) else []
    rest = line[sum(map(len, found)) :]
    return [*found, rest] if rest.strip() else found


def _objects_at_front(data: bytes) -> Iterator[bytes]:
    """Yield the complete objects with which it begins, by their ends alone: they need not be valid UTF-8."""
    text = data.decode("latin-1")  # one character a byte, so that places in it are places in `data`
    at = 0
    with suppress(ValueError, RecursionError):
        while opens := _OPENS.match(text, at):
            _, end = _lenient.raw_decode(text, opens.end())
            yield data[at:end]
            at = end
