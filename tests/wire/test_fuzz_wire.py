"""The fuzzing of the wire at a small size; `python -m benchmarks fuzz_wire` is the same at any."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.fuzz_wire import figures, fuzz
from benchmarks.wire_cases import SENTINEL, Conversation, Target, conversation
from benchmarks.wire_peer import hold
from distexp.wire.framing import encode
from distexp.wire.messages import StatusReply, SweepStatus

COUNTS = dict.fromkeys(("total", "pending", "assigned", "complete", "failed", "cancelled", "workers"), 0)
STATUS = SweepStatus(**COUNTS, progress="0/0 (100.0%)", done=True, paused=False)
TARGET = Target(
    port=0,
    token="secret",
    sweep_id="sweep",
    task_ids=("t_0_42", "t_1_42", "t_2_42", "t_3_42"),
    keys=("k0", "k1", "k2", "k3"),
    machine="machine",
    nonce="nonce",
    pid=1,
    completable=1,
)


@pytest.mark.slow
def test_a_manager_keeps_its_sweep_its_threads_and_its_memory_through_3000_mutated_messages() -> None:
    found = fuzz(1, range(200), clients=1, tasks=8)
    assert found.problems == []
    assert found.messages > 3000
    assert [figure.name for figure in figures(found) if not figure.holds] == []


def test_a_conversation_is_fixed_by_seed_and_number() -> None:
    assert conversation(TARGET, 1, 7) == conversation(TARGET, 1, 7)
    assert conversation(TARGET, 1, 7) != conversation(TARGET, 2, 7)
    assert conversation(TARGET, 1, 7) != conversation(TARGET, 1, 8)


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """The port of a peer that reads one connection to its end, and then says this."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as sock:
                while sock.recv(65536):
                    pass
                sock.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (encode(StatusReply(status=STATUS)), ""),
        (b"", "no reply"),
        (b'{"type":"stat\n', 'the reply b\'{"type":"stat\''),
        (b'{"type":"error","error":"internal error; see the log"}\n', "the reply 'internal error"),
        (b'{"type":"error","error":"a\\nb"}\n', "the reply 'a\\nb' is not one line"),
        (b'{"type":"ack"}\n', "the last reply is Ack("),
    ],
)
def test_what_is_wrong_with_an_answer_is_seen(reply: bytes, fault: str) -> None:
    planned = Conversation(packets=(SENTINEL,), ending="half_close", messages=1, is_invited=True)
    with answering(reply) as port:
        found = hold(planned, port)
    assert found.startswith(fault)
    assert bool(found) is bool(fault)
