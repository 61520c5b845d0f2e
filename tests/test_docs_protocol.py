"""docs/protocol.md lists every message with every field, default and limit, as the code has them."""

import json
import re

import msgspec
import pytest
from msgspec.structs import FieldInfo, fields

from distexp import task
from distexp.errors import ProtocolError
from distexp.wire import framing, messages
from distexp.wire.server import BACKLOG, MAX_REFUSALS, MAX_UNAUTHENTICATED
from tests.pages import blocks, page, rows, section, spans

PROTOCOL = page("docs/protocol.md")
PARTS = {
    messages.Request: "Every request",
    messages.WorkerRequest: "Every request of a worker",
    messages.Report: "Every report",
    messages.Progress: "Object `progress`",
    messages.GpuUse: "Object `gpu`",
    task.Provenance: "Object `run`",
    messages.SweepStatus: "Object `status`",
    messages.WorkerStatus: "Object of `workers`",
    messages.TaskStatus: "Object of `tasks`",
    messages.FailureStatus: "Object of `failures`",
    messages.PhaseStatus: "Object of `phases`",
    task.Bookmark: "Object `seen`",
    task.RowRule: "Object `rule`",
    task.Halving: "Object `halving`",
    task.SharedGpu: "Object `memory`",
    task.PeakMemory: "Object `peak`",
    messages.RungStatus: "Object of `rungs`",
}
REPLIES_NAMED_LIKE_REQUESTS = (
    "heartbeat",
    "rung",
    "status",
    "workers",
    "tasks",
    "show",
    "logs",
    "code",
    "view",
)


def structs() -> list[type[msgspec.Struct]]:
    found = [each for each in vars(messages).values() if isinstance(each, type)]
    kept = [each for each in found if issubclass(each, msgspec.Struct) and each is not task.Task]
    return sorted(set(kept), key=lambda each: each.__name__)


def heading_of(struct: type[msgspec.Struct]) -> str:
    if struct in PARTS:
        return PARTS[struct]
    tag = str(struct.__struct_config__.tag)
    is_reply = not issubclass(struct, messages.Request)
    return f"`{tag}` (reply)" if is_reply and tag in REPLIES_NAMED_LIKE_REQUESTS else f"`{tag}`"


def own_fields(struct: type[msgspec.Struct]) -> list[FieldInfo]:
    base = struct.__mro__[1]
    inherits = issubclass(struct, messages.Request) and base is not msgspec.Struct
    inherited = {each.name for each in fields(base)} if inherits else set()
    return [each for each in fields(struct) if each.name not in inherited]


def default_of(field: FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return json.dumps(value)


@pytest.mark.parametrize("struct", structs(), ids=lambda each: each.__name__)
def test_protocol_lists_each_field_of_each_message_with_its_default(struct: type[msgspec.Struct]) -> None:
    listed = rows(section(PROTOCOL, heading_of(struct)))
    shown = {spans(name)[0]: default.strip("`") for name, _, _, default, _ in listed}
    assert shown == {each.name: default_of(each) for each in own_fields(struct)}


@pytest.mark.parametrize("name", ["docs/protocol.md", "docs/design.md"])
def test_each_message_that_is_shown_can_be_read(name: str) -> None:
    lines = [line for block in blocks(page(name), "json") for line in block.splitlines()]
    shown = [line.encode() for line in lines if '"type":' in line]
    assert shown
    for line in shown:
        try:
            framing.decode_request(line)
        except ProtocolError:
            framing.decode_reply(line)


def test_protocol_shows_an_example_of_each_message() -> None:
    lines = [line for block in blocks(PROTOCOL, "json") for line in block.splitlines()]
    shown = {json.loads(line)["type"] for line in lines}
    assert shown == {str(each.__struct_config__.tag) for each in structs() if each not in PARTS}


def test_the_limits_in_protocol_are_those_of_the_code() -> None:
    shown = [re.findall(r"\d+", cells[1])[0] for cells in rows(section(PROTOCOL, "Framing and limits"))]
    limits = (
        *(framing.MAX_MESSAGE_BYTES, framing.MAX_STATUS_BYTES, framing.MESSAGE_S),
        *(framing.IDLE_S, messages.PAGE, framing.MESSAGE_S, MAX_REFUSALS, MAX_UNAUTHENTICATED, BACKLOG),
    )
    assert shown == [f"{limit:.0f}" for limit in limits]
