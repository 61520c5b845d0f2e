"""What the wire is fuzzed with: conversations, each fixed by a seed and its number. Pure.

About one message in ten is sound, so that tasks are assigned, reported and cancelled all the time; the others
are sound ones with one field spoilt, or with damaged bytes. The messages of one conversation all hold the
right token, or none, or a wrong one; those without are few and short, since the manager soon has enough of
them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from msgspec import json

from benchmarks.mutation import mutated

MAX_MESSAGES = 40  # of one conversation
MAX_UNINVITED = 6  # of one without the right token: it is closed after three refusals
UNINVITED = 0.3  # of the conversations
MEAN_MESSAGES = 15  # of a conversation, with both kinds
SENTINEL = b'\n{"type":"status"}\n'
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # how a TLS client begins

Ending = Literal["half_close", "close", "reset", "cut"]

# JSON texts, sound or not, that take the place of a field's value
VALUES = [
    *(
        b"null",
        b"true",
        b"false",
        b"0",
        b"-1",
        b"1.5",
        b'""',
        b'"x"',
        b"[]",
        b"{}",
        b"[[]]",
        b'[""]',
        b'{"":0}',
    ),
    *(b"2147483648", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809", b"1e308"),
    *(b"1" + b"0" * 30, b"9" * 4000, b"9" * 5000, b"1e-320", b"1e400", b"NaN", b"Infinity", b"-Infinity"),
    *(b'"\\u0000"', b'"a\\nb"', b'"a\\r\\nb"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u2028\\u0085"'),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xc0\x80"', b'"\x00"', b'"\t"', b'"\\x"'),
    *(b'"\xf0\x9f\x98\x80\\u001b[2J\\u009b\xe2\x80\xae"', b'"../../etc/passwd"', b'"{width}"', b'"=1+1"'),
    *(
        b"[" * 500 + b"]" * 500,
        b"[" * 20_000,
        b'{"a":' * 500 + b"0" + b"}" * 500,
        b'"' + b"x" * 30_000 + b'"',
    ),
    *(b'{"x":1,"x":2}', b'{"a":{"b":[1,2,{"c":null}]}}', b'[1,"1",1.0,true,null]', b'{"seed":1}'),
]
TOKENS = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\r\n", b"\\u0000", b'"', b"\\", b"{", b"}", b"[", b"]"),
    *(
        b",",
        b":",
        b"NaN",
        b"Infinity",
        b"1e999",
        b'"type":"cancel",',
        b'"token":null,',
        b"[" * 300,
        b" " * 300,
    ),
    *(
        b'{"type":"status"}',
        b"\xef\xbb\xbf",
        b"\xf0\x9f\x98\x80",
        b"// comment",
        b"\x16",
        b"\x1b[2J",
        b"\x7f",
    ),
]
BIG = b'{"type":"status","token":"' + b"x" * 1_100_000  # over the limit of a message


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a sound message to this manager holds."""

    port: int
    token: str  # the secret
    sweep_id: str
    task_ids: tuple[str, ...]
    keys: tuple[str, ...]
    machine: str
    nonce: str
    pid: int
    completable: int  # only the first tasks are reported as complete by sound messages


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One connection: what is sent in which pieces, and how it ends."""

    packets: tuple[bytes, ...]
    ending: Ending
    messages: int
    is_invited: bool  # it begins by showing the secret, in a message of its own

    @property
    def is_tls(self) -> bool:
        """Whether the first byte says that TLS follows."""
        return bool(self.packets) and self.packets[0][:1] == TLS[:1]


def conversation(target: Target, seed: int, number: int) -> Conversation:
    """Return the conversation of this number."""
    random = Random(f"{seed}:{number}")
    is_uninvited = random.random() < UNINVITED
    token = random.choice((None, "wrong")) if is_uninvited else target.token
    count = random.randint(1, MAX_UNINVITED if is_uninvited else MAX_MESSAGES)
    sound = [_sound(random, target, token) for _ in range(count)]
    texts = [_assembled(fields) for fields in sound]
    messages = [_spoilt(random, fields, text, texts) for fields, text in zip(sound, texts, strict=True)]
    if random.random() < 0.01:
        messages.insert(random.randrange(count), BIG)
    if not is_uninvited:
        messages.insert(0, _assembled({"type": b'"status"', "token": json.encode(token)}) + b"\n")
    elif random.random() < 0.1:
        messages.insert(0, TLS + random.randbytes(random.randint(0, 600)))
    completion: tuple[Ending, ...] = ("half_close", "close", "reset", "cut")
    ending = random.choices(completion, (6, 1, 1, 1))[0]
    stream = random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n \n", b"")).join(messages)
    stream = stream[: random.randint(0, len(stream))] or b" " if ending == "cut" else stream + SENTINEL
    packets = tuple(_packets(random, stream))
    return Conversation(packets=packets, ending=ending, messages=len(messages), is_invited=not is_uninvited)


def _packets(random: Random, stream: bytes) -> Sequence[bytes]:
    match random.choice(("one", "one", "lines", "cuts", "bytes")):
        case "lines":
            return stream.splitlines(keepends=True)
        case "cuts":
            cuts = sorted({0, len(stream), *(random.randrange(len(stream)) for _ in range(8))})
            return [stream[a:b] for a, b in itertools.pairwise(cuts)]
        case "bytes":
            return [stream[at : at + 1] for at in range(min(200, len(stream)))] + [stream[200:]]
    return [stream]


def _spoilt(random: Random, fields: dict[str, bytes], text: bytes, others: Sequence[bytes]) -> bytes:
    match random.choices(("sound", "field", "bytes"), (10, 45, 45))[0]:
        case "field":
            name = random.choice([*fields, "unknown", *_OPTIONAL])
            return _assembled(fields | {name: random.choice(VALUES)})
        case "bytes":
            return mutated(random, text, others, TOKENS)
    return text


def _assembled(fields: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), text) for name, text in fields.items()) + b"}"


_OPTIONAL = (
    *("heartbeat_s", "host", "device", "memory_mib", "pid", "instance", "progress", "run", "result"),
    *("left_s", "gpus", "free_mib", "git_commit", "gpu", "memory", "peak", "shared_gpu"),
)
_TYPES = (
    *("status", "request_task", "request_task", "heartbeat", "task_complete", "task_failed", "task_released"),
    *("workers", "tasks", "show", "logs", "view", "cancel", "requeue", "requeue"),
    *("pause", "resume", "resume", "drain"),
)


def _sound(random: Random, target: Target, token: str | None) -> dict[str, bytes]:
    """Return a request of any type, each field as JSON."""
    type_ = random.choice(_TYPES)
    fields: dict[str, object] = {"type": type_}
    if token is not None:
        fields["token"] = token
    if type_ in ("request_task", "heartbeat", "task_complete", "task_failed", "task_released"):
        fields |= _about_worker(random, target)
    place = random.randrange(target.completable if type_ == "task_complete" else len(target.keys))
    task = random.choice(({"task_id": target.task_ids[place]}, {"key": target.keys[place]}))
    match type_:
        case "heartbeat":
            progress = {"step": 3, "total": 10, "metrics": {"loss": 0.5, "name": "é"}}
            fields |= {"key": target.keys[place], "lease_id": "0" * 16, "progress": progress}
        case "task_complete":
            run = {"attempt": 1, "worker": "w0", "host": "", "device": "cpu", "duration_s": 1.5}
            fields |= task | {"result": {"x": 1, "acc": 0.1 + 0.2, "note": 'a,"b"'}, "run": run}
            fields |= {"next": random.random() < 0.3, "sweep_id": random.choice(("", target.sweep_id))}
        case "task_failed":
            causes = ("error", "error", "crash", "timeout", "out_of_memory", "import")
            fields |= task | {"cause": random.choice(causes), "error": "first line\n  boom\nValueError: é"}
        case "task_released":
            fields |= task | {"reason": "stopped"}
        case "tasks":
            fields |= {"state": random.choice((None, "failed")), "where": {"a": place}, "offset": 1}
        case "show" | "logs":
            fields["task"] = random.choice((target.task_ids[place], "nobody"))
        case "cancel":
            fields["tasks"] = [target.task_ids[place]]
        case "requeue":
            fields |= {"tasks": random.sample(target.task_ids, 4), "failed": random.random() < 0.5}
            fields["missing"] = random.random() < 0.02
        case "drain":
            fields["worker_id"] = random.choice(("w9", "nobody"))
    return {name: json.encode(value) for name, value in fields.items()}


def _about_worker(random: Random, target: Target) -> dict[str, object]:
    about: dict[str, object] = {"worker_id": f"w{random.randrange(10)}"}
    if random.random() < 0.5:
        about |= {"heartbeat_s": random.choice((0.001, 15)), "instance": f"i{random.randrange(8)}"}
        about |= {"memory_mib": random.choice((0, 4000)), "device": "cpu"}
    if random.random() < 0.2:
        about |= {
            "left_s": random.choice((0, 5, 1e9)),
            "gpus": random.randrange(3),
            "git_commit": "0ab1" * 10,
        }
    if random.random() < 0.3:
        about |= {
            "machine": target.machine,
            "nonce": target.nonce,
            "pid": random.choice((0, target.pid, 99_999)),
        }
    elif random.random() < 0.3:
        about["host"] = "node1"
    return about
