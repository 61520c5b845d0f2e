"""Tasks that failed, grouped by cause: each cause once, with how many tasks it took. Pure."""

from collections.abc import Iterable

import msgspec

from distexp.queue.records import TaskRecord
from distexp.text import without_numbers


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that ended without a result in one way."""

    state: str
    cause: str
    message: str  # the last line of the first one's error
    keys: list[str]  # of the tasks, in the order of the sweep
    error: str  # the first one's, whole


def group_failures(
    records: Iterable[TaskRecord], keys: Iterable[str], *, with_pending: bool = False
) -> list[FailureGroup]:
    """Return the tasks without a result by state, cause and message, the largest group first.

    Messages are the same when they differ in numbers alone.

    Args:
        records: What the manager knows, in any order.
        keys: Of the tasks that are looked at, in the order of the sweep.
        with_pending: Also those that failed and would be tried again; a held phase has such.
    """
    known = {record.key: record for record in records}
    groups: dict[tuple[str, str, str], FailureGroup] = {}
    for record in (known[key] for key in keys if key in known):
        has_failed = with_pending and record.state == "pending" and record.error
        if record.state not in ("failed", "cancelled") and not has_failed:
            continue
        error = record.error.strip()
        message = error.rpartition("\n")[2]
        group = groups.setdefault(
            (record.state, record.cause, without_numbers(message)),
            FailureGroup(state=record.state, cause=record.cause, message=message, keys=[], error=error),
        )
        group.keys.append(record.key)
    return sorted(groups.values(), key=lambda group: -len(group.keys))
