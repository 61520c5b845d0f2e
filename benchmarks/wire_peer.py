"""One side of a fuzzed conversation, by a raw socket: it sends, reads, and judges the answers."""

import json
import select
import socket
import struct
import time

from benchmarks.wire_cases import Conversation
from distexp.errors import ProtocolError
from distexp.wire.framing import decode_reply
from distexp.wire.messages import ErrorReply, StatusReply
from distexp.wire.server import MAX_REFUSALS

PATIENCE_S = 60.0  # for a connection to be answered and closed: twice its longest limit, on a busy machine
RECEIVE_BYTES = 64 * 1024


def hold(planned: Conversation, port: int) -> str:
    """Hold the conversation and return what is wrong with how the manager took it; empty when nothing is."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        try:
            answer = _exchange(sock, planned)
        except TimeoutError as error:
            return str(error)
        if planned.ending == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "" if planned.is_tls else _fault(answer, planned)


def _exchange(sock: socket.socket, planned: Conversation) -> bytes:
    """Send every packet by itself, reading meanwhile; then to the end, unless this side leaves at once."""
    answer, packets = bytearray(), [packet for packet in reversed(planned.packets) if packet]
    until_s = time.monotonic() + PATIENCE_S
    while True:
        if not packets and planned.ending in ("close", "reset"):
            return bytes(answer)
        readable, writable, _ = select.select([sock], [sock] if packets else [], [], 1.0)
        if time.monotonic() > until_s:
            raise TimeoutError(f"the connection is still open after {PATIENCE_S:g} s")
        try:
            if readable:
                if not (data := sock.recv(RECEIVE_BYTES)):
                    return bytes(answer)
                answer += data
            elif writable:
                packet = packets.pop()
                if rest := packet[sock.send(packet) :]:
                    packets.append(rest)
                if not packets and planned.ending in ("half_close", "cut"):
                    sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is reset: what was said before stands; whether that is enough is seen there
            return bytes(answer)


def _fault(answer: bytes, planned: Conversation) -> str:
    replies = []
    for line in answer.splitlines():
        try:
            json.loads(line)
            replies.append(decode_reply(line))
        except (ValueError, ProtocolError) as error:
            if planned.ending in ("half_close", "cut"):
                return f"the reply {line[:200]!r} is none of docs/protocol.md ({error})"
    for reply in replies:
        if isinstance(reply, ErrorReply) and ("internal" in reply.error or "\n" in reply.error):
            return f"the reply {reply.error!r} is not one line that says what was wrong"
    if planned.ending != "half_close":
        return ""
    if not replies:
        return "no reply"
    is_goodbye = isinstance(replies[-1], ErrorReply) and "too large (more than" in replies[-1].error
    refusals = sum(isinstance(reply, ErrorReply) for reply in replies)
    is_shown_out = not planned.is_invited and refusals >= MAX_REFUSALS
    if not (isinstance(replies[-1], StatusReply) or is_goodbye or is_shown_out):
        return f"the last reply is {replies[-1]}, not the status that was asked for last"
    return ""
