"""Messages to bytes and back: encode, decode, cut a stream into messages, and the sizes allowed. No I/O.

One JSON object a message, UTF-8. A newline ends it, but a complete object without one is answered too;
replies end with a newline.
"""

import re
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

Message = TypeVar("Message")

_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_replies: msgspec.json.Decoder[AnyReply] = msgspec.json.Decoder(AnyReply)
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.(\w+)`)?")
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
    """Return the request without the fields that are not known, if it names a version; else raise."""
    try:
        fields: Any = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise error from None
    if not isinstance(fields, dict) or not isinstance(fields.get("version"), str):
        raise error
    for _ in range(MAX_NEWER_FIELDS):
        try:
            return msgspec.convert(fields, type=AnyRequest)  # type: ignore[no-any-return]
        except msgspec.ValidationError as problem:
            found = _UNKNOWN.fullmatch(str(problem))
            place = fields.get(found[2], {}) if found and found[2] else fields
            if found is None or found[1] not in place:
                raise _refusal(problem) from None
            del place[found[1]]
    raise error


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
        raise _refusal(error) from None


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
        messages = [bytes(line) for line in lines if line.strip()]
        if self._is_whole():
            messages.append(bytes(self._buffer))
            self._buffer.clear()
            self._guesses = 0
        if any(len(line) > MAX_MESSAGE_BYTES for line in (*messages, self._buffer)):
            raise ProtocolError(f"message: too large (more than {MAX_MESSAGE_BYTES} bytes)")
        return messages

    def _is_whole(self) -> bool:
        """Whether the buffer holds a complete object though no newline came (yet)."""
        if not self._buffer.rstrip().endswith(b"}") or len(self._buffer) > MAX_MESSAGE_BYTES:
            return False
        self._guesses += 1
        if self._guesses > MAX_GUESSES:
            return False
        try:
            msgspec.json.decode(self._buffer, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True
