"""Messages and bytes: what goes out comes back, any split gives the same messages, nonsense is refused."""

import contextlib
import itertools
import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distexp.errors import ProtocolError
from distexp.manager.admin import Admin
from distexp.manager.sweep_state import SweepState
from distexp.manager.workers import WorkerRegistry
from distexp.queue.entry import WorkerInfo
from distexp.queue.task_queue import TaskQueue
from distexp.results.store import ResultsStore
from distexp.task import Bookmark, PeakMemory, Provenance, RowRule, SharedGpu, State, Value
from distexp.wire import messages as wire
from distexp.wire.framing import (
    MAX_GUESSES,
    MAX_MESSAGE_BYTES,
    MAX_STATUS_BYTES,
    MessageReader,
    decode_reply,
    decode_request,
    encode,
)
from distexp.workdir import Workdir
from tests.row_cases import a_task
from tests.support import Clock, examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SCALAR = st.booleans() | st.integers(-(2**63), 2**63 - 1) | NUMBER | TEXT
JSON = st.recursive(
    st.none() | SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
NAME = st.from_regex(re.compile(r"[a-z]+[0-9./é]{0,9}", re.ASCII), fullmatch=True)
COUNT = st.integers(0, 2**53 - 1)
NAMED: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("worker_id", "host"), NAME),
    "git_commit": st.text("0123456789abcdef", max_size=64),
    **dict.fromkeys(("config", "where", "assume"), st.dictionaries(TEXT, JSON, max_size=3)),
    "rivals": st.dictionaries(TEXT, st.lists(JSON, max_size=2), max_size=2),
    **dict.fromkeys(("result", "metrics"), st.dictionaries(TEXT, SCALAR, max_size=3)),
    **dict.fromkeys(("heartbeat_s", "left_s"), st.none() | st.floats(0.1, 3600)),
    **dict.fromkeys(("pid", "memory_mib", "gpus", "used_mib", "free_mib"), COUNT),
    **dict.fromkeys(("mib", "total_mib", "min_free_mib"), COUNT),
    "held_mib": st.dictionaries(COUNT, COUNT, max_size=3),
    **dict.fromkeys(("wait_s", "ran_s"), st.floats(0, 3600)),
    "priority": st.none() | st.integers(-wire.MAX_PRIORITY, wire.MAX_PRIORITY),
    "offset": st.integers(0, 2**40),
    "utilization_pct": st.none() | st.integers(0, 100),
    "row": st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
}
PARTS = (wire.SweepStatus, wire.WorkerStatus, wire.TaskStatus, wire.FailureStatus)


def values_of(kind: Any, name: str) -> st.SearchStrategy[Any]:
    """Values that a field of a message may hold."""
    text = str(kind)
    if (struct := next((each for each in PARTS if each.__name__ in text), None)) is not None:
        return st.lists(messages(struct), max_size=2) if "list" in text else messages(struct)
    if name in NAMED:
        return NAMED[name]
    if name == "next" and "TaskReply" in text:
        return st.none() | messages(wire.TaskReply) | messages(wire.NoTask)
    for struct in (wire.Progress, wire.GpuUse, Provenance, Bookmark, RowRule, SharedGpu, PeakMemory):
        if struct.__name__ in text:
            return st.none() | messages(struct)
    return st.from_type(kind).filter(
        lambda value: not re.search("nan|inf", str(value))
    )  # JSON holds no such number


def messages(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    fields = {
        field.name: values_of(field.type, field.encode_name) for field in msgspec.structs.fields(struct)
    }
    return st.builds(struct, **fields)


@pytest.mark.parametrize(
    "kind", get_args(wire.AnyRequest) + get_args(wire.AnyReply), ids=lambda k: k.__name__
)
def test_every_message_comes_back_as_it_went(kind: type[msgspec.Struct]) -> None:
    decode = decode_request if kind in get_args(wire.AnyRequest) else decode_reply

    @examples(8)
    @given(messages(kind))
    def round_trip(message: Any) -> None:
        line = encode(message)
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        assert decode(line) == message
        assert json.loads(line)["type"] == kind.__struct_config__.tag
        assert MessageReader().feed(line) == [line[:-1]]

    round_trip()


# -- framing -----------------------------------------------------------------------------------------------


def fed(pieces: list[bytes]) -> list[bytes]:
    reader = MessageReader()
    return [message.strip() for piece in pieces for message in reader.feed(piece)]


@examples(40)
@given(
    objects=st.lists(st.dictionaries(TEXT, JSON, max_size=3), min_size=1, max_size=4),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b" \n\n"]), min_size=4, max_size=4),
    is_last_open=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
@example([{"a": {"b": "}"}}], [b"\n"] * 4, True, [6, 7, 8, 9, 12, 13])
def test_any_split_of_a_stream_gives_the_same_messages(
    objects: list[dict[str, Value]], ends: list[bytes], is_last_open: bool, cuts: list[int]
) -> None:
    lines = [json.dumps(each).encode() for each in objects]
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    if is_last_open:  # a complete object without a newline is answered too
        stream = stream.rstrip()
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert fed(pieces) == lines
    assert fed([stream]) == lines


def test_a_message_that_has_begun_is_told_from_silence() -> None:
    reader = MessageReader()
    assert not reader.is_mid_message
    assert reader.feed(b' \n {"type": "sta') == []
    assert reader.is_mid_message
    assert reader.feed(b'tus"}') == [b' {"type": "status"}']
    assert not reader.is_mid_message


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_message_over_a_mebibyte_is_refused(end: bytes) -> None:
    fitting = b'"' + b"x" * (MAX_MESSAGE_BYTES - 2) + b'"'
    assert MessageReader().feed(fitting + b"\n") == [fitting]
    reader = MessageReader()
    with pytest.raises(ProtocolError, match=r"message: too large \(more than 1048576 bytes\)"):
        for _ in range(17):
            reader.feed(b"x" * 65536)
        reader.feed(end)
    with pytest.raises(ProtocolError, match=r"too large \(1048618 bytes; at most 1048576\)"):
        encode(wire.ErrorReply(error="x" * MAX_MESSAGE_BYTES))


def test_after_64_guesses_an_open_object_waits_for_its_newline() -> None:
    def one_by_one(braces: int) -> list[bytes]:
        reader, text = MessageReader(), b'{"a":"' + b"}" * braces
        answers = [reader.feed(bytes([byte])) for byte in text]
        assert not any(answers)
        return reader.feed(b'"}') or reader.feed(b"\n")[:0]

    assert one_by_one(MAX_GUESSES - 1)
    assert not one_by_one(MAX_GUESSES)
    reader = MessageReader()
    for byte in b'{"a":"' + b"}" * 100 + b'"}':
        assert reader.feed(bytes([byte])) == []
    assert reader.feed(b'\n{"b":1}') == [b'{"a":"' + b"}" * 100 + b'"}', b'{"b":1}'], "a newline starts anew"


def sent(*results: dict[str, object]) -> bytes:
    """What a client sends that uses Python's `json` alone, and no newline."""
    about = {"type": "task_complete", "worker_id": "me", "key": "ü{}"}
    return b"".join(json.dumps({**about, "result": result}).encode() for result in results)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_numbers_that_are_not_finite_come_as_a_row_shows_them(end: bytes) -> None:
    numbers = {"a": float("nan"), "b": [float("-inf"), 1.5], "c": {"d": float("inf")}, "e": "NaN"}
    [line] = fed([sent(numbers) + end])
    request = decode_request(line)
    assert isinstance(request, wire.TaskComplete)
    assert request.result == {"a": "nan", "b": ["-inf", 1.5], "c": {"d": "inf"}, "e": "NaN"}
    newer = json.loads(line) | {"version": "9.9", "later": float("nan")}
    assert decode_request(json.dumps(newer).encode()) == msgspec.structs.replace(request, version="9.9")


@pytest.mark.parametrize("between", [b"", b" ", b"\n"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_objects_that_come_glued_together_are_each_answered(between: bytes, end: bytes) -> None:
    objects = [sent({"loss": 1.0, "text": "} {"}), sent({"loss": float("nan")}), sent({"loss": 2.0})]
    stream = between.join(objects) + end
    assert fed([stream]) == objects
    assert [m for cut in range(1, len(stream)) for m in fed([stream[:cut], stream[cut:]])] == objects * (
        len(stream) - 1
    )
    reader = MessageReader()
    assert reader.feed(objects[0] + b'{"type": {"a": 1}') == objects[:1]
    assert reader.is_mid_message


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"type": "nope"}', "Invalid value 'nope' - at `$.type`"),
        ("{}", "missing required field `type`"),
        ('{"type": "status", "verbose": 1}', "unknown field `verbose`"),
        ('{"type": "request_task"}', "missing required field `worker_id`"),
        ('{"type": "request_task", "worker_id": 5}', "Expected `str`, got `int` - at `$.worker_id`"),
        ('{"type": "request_task", "worker_id": ""}', "`$.worker_id`"),
        ('{"type": "request_task", "worker_id": "a b"}', "`$.worker_id`"),
        ('{"type": "request_task", "worker_id": "gpu0\\n"}', "`$.worker_id`"),
        ('{"type": "request_task", "worker_id": "gpu0", "host": "a\\nb"}', "`$.host`"),
        ('{"type": "request_task", "worker_id": "gpu0", "host": "node1\\n"}', "`$.host`"),
        ('{"type": "request_task", "worker_id": "gpu0", "git_commit": "a\\nb"}', "`$.git_commit`"),
        ('{"type": "heartbeat", "worker_id": "a", "heartbeat_s": 0}', "Expected `float` > 0.0"),
        ('{"type": "heartbeat", "worker_id": "a", "heartbeat_s": 1e9}', "Expected `float` <= 3600.0"),
        ('{"type": "heartbeat", "worker_id": "a", "heartbeat_s": NaN}', "got `str` - at `$.heartbeat_s`"),
        ('{"type": "heartbeat", "worker_id": "a", "heartbeat_s": 1e999}', "Number out of range"),
        ('{"type": "task_complete", "worker_id": "a", "result": {"x": NaN', "JSON is malformed"),
        ('{"type": "task_complete", "worker_id": "a", "result": {"x": [NaN, "\\ud800"]}}', "malformed"),
        (
            '{"type": "task_complete", "worker_id": "a", "result": {"x": [NaN, 1' + "0" * 5000 + "]}}",
            "malformed",
        ),
        ('{"type": "task_failed", "worker_id": "a", "error": "", "cause": "bad luck"}', "'bad luck'"),
        ('{"type": "task_complete", "worker_id": "a", "result": [1]}', "`$.result`"),
        ('{"type": "heartbeat", "worker_id": "gpu0", "pid": -1}', "`int` >= 0 - at `$.pid`"),
        ('{"type": "heartbeat", "worker_id": "gpu0", "memory_mib": 9007199254740992}', "`$.memory_mib`"),
        ('{"type": "cancel", "tasks": "exp1_0_42"}', "Expected `array`, got `str`"),
        ('{"type": "status"', "Input data was truncated"),
        ('{"type": "status"} {"type": "status"}', "JSON is malformed"),
        ("[1]", "Expected `object`, got `array`"),
        ("GET / HTTP/1.1", "JSON is malformed"),
        ('{"type": "tasks", "where": {"a": ' + "[" * 9000 + "]" * 9000 + "}}", "maximum recursion depth"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line_that_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ProtocolError) as error:
        decode_request(text.encode())
    assert says in str(error.value)
    assert str(error.value).startswith("message: ")
    assert str(error.value).endswith("; docs/protocol.md lists every message")
    assert "\n" not in str(error.value)


@examples(40)
@given(st.binary(max_size=60) | TEXT.map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    for line in MessageReader().feed(data + b"\n"):
        for decode in (decode_request, decode_reply):
            with contextlib.suppress(ProtocolError):  # a sound message may come up, too
                decode(line)


# -- status ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["w", '"', "é", "\U0001f600"])
def test_a_status_fits_into_one_recv_of_1024_bytes(letter: str, tmp_path: Any) -> None:
    task = a_task()
    tasks = [msgspec.structs.replace(task, key=str(number)) for number in range(1000)]
    queue = TaskQueue(Clock(), lambda record: None)
    queue.sync(tasks)
    queue._counts.add_each({task.phase: 999_000}, State.PENDING)  # as with a million tasks
    registry = WorkerRegistry(
        host="here", machine="", nonce="", task_lock=Workdir(Path()).task_lock, clock=Clock()
    )
    for number in range(300):
        request = wire.RequestTask(worker_id=f"{letter * 96}{number}", host=letter * 255)
        worker = registry.register(request, number)
        registry.register(wire.RequestTask(worker_id="substitute"), number)
        registry.exclude(worker.info, "it cannot import the experiment, which others can")
    assert queue.assign(WorkerInfo("cpu0"))
    store = ResultsStore(tmp_path, lambda scan: None)
    reply = Admin(SweepState(Workdir(tmp_path), queue, store, registry)).handle(wire.Status())
    line = encode(reply)
    assert len(line) <= MAX_STATUS_BYTES
    status = json.loads(line)["status"]
    assert (status["total"], status["pending"], status["assigned"]) == (1_000_000, 999_999, 1)
    assert status["progress"] == "0/1000000 (0.0%)"
    assert status["benched"].startswith(f"{letter * 10}")
