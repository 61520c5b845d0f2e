"""Items that arrive together are committed together, in order, and none is acknowledged uncommitted."""

import threading

import pytest

from distexp.errors import JournalUnwritable
from distexp.system.group_commit import GroupCommit
from tests.support import Clock


def test_items_that_arrive_during_a_commit_share_the_next_one() -> None:
    batches: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def commit(items: list[int]) -> None:
        batches.append(items)
        begun.set()
        assert go_on.wait(30)

    commits = GroupCommit(commit)
    first = threading.Thread(target=lambda: commits.wait(commits.add(0)))
    first.start()
    assert begun.wait(30)
    tickets = [commits.add(number) for number in range(1, 9)]
    others = [threading.Thread(target=commits.wait, args=(ticket,)) for ticket in tickets]
    for thread in others:
        thread.start()
    go_on.set()
    for thread in [first, *others]:
        thread.join()
    assert batches == [[0], list(range(1, 9))]


def test_every_item_is_committed_once_and_in_order_under_sixteen_threads() -> None:
    committed: list[tuple[int, int]] = []
    commits = GroupCommit(committed.extend)

    def work(thread: int) -> None:
        for number in range(100):
            commits.wait(commits.add((thread, number)))
            assert committed.count((thread, number)) == 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(committed) == 1600
    for thread_number in range(16):
        assert [number for thread, number in committed if thread == thread_number] == list(range(100))


def test_an_error_reaches_all_who_wait_for_its_batch_and_nobody_else() -> None:
    errors: list[str] = []

    def commit(items: list[str]) -> None:
        if "bad" in items:
            raise JournalUnwritable("disk full")

    commits = GroupCommit(commit)
    tickets = [commits.add("good"), commits.add("bad")]
    assert tickets[0] is tickets[1]

    def wait() -> None:
        try:
            commits.wait(tickets[0])
        except JournalUnwritable as error:
            errors.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["disk full"] * 4
    commits.wait(commits.add("good"))


def test_a_bug_in_a_commit_acknowledges_nothing_to_those_who_wait_along() -> None:
    commits: GroupCommit[int] = GroupCommit(lambda items: print(1 // items[0]))
    ticket = commits.add(0)
    with pytest.raises(ZeroDivisionError):
        commits.wait(ticket)
    with pytest.raises(Exception, match="the commit was broken off; nothing is acknowledged"):
        commits.wait(ticket)
    commits.wait(commits.add(1))


def test_a_wait_with_nothing_new_still_calls_the_commit() -> None:
    calls: list[list[int]] = []
    GroupCommit(calls.append).wait()
    assert calls == [[]]


def take_turns(own: int, others: int, company_s: float) -> list[list[str]]:
    """Return what is committed together where `b0` comes during the commit of `a0`, and each comes back."""
    batches: list[list[str]] = []
    begun, go_on, clock = threading.Event(), threading.Event(), Clock()

    def commit(items: list[str]) -> None:
        batches.append(items)
        begun.set()
        assert go_on.wait(30)
        clock.advance(30)

    commits = GroupCommit(commit, company_s=company_s, clock=clock)

    def work(name: str, numbers: range) -> None:
        for number in numbers:
            commits.wait(commits.add(f"{name}{number}"))

    first = threading.Thread(target=work, args=("a", range(own)))
    first.start()
    assert begun.wait(30)
    ticket = commits.add("b0")
    second = threading.Thread(target=lambda: (commits.wait(ticket), work("b", range(1, others))))
    second.start()
    go_on.set()
    for thread in (first, second):
        thread.join()
    return [sorted(each) for each in batches]


def test_two_who_take_turns_share_each_commit_after_the_first() -> None:
    assert take_turns(4, 3, company_s=30) == [["a0"], ["a1", "b0"], ["a2", "b1"], ["a3", "b2"]]


def test_who_does_not_come_back_holds_up_nobody() -> None:
    assert take_turns(1, 3, company_s=0.001) == [["a0"], ["b0"], ["b1"], ["b2"]]
