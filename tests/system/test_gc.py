"""What is made for long is kept out of the garbage collector's sight, and nothing else is."""

import gc
from collections.abc import Iterator

import pytest

from distexp.errors import DistexpError
from distexp.system import gc as lasting


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Nothing that an earlier test has set aside; and no collection comes by itself."""
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    lasting.take_back()
    yield
    gc.set_threshold(*thresholds)


class Cycle:
    def __init__(self) -> None:
        self.me = self


def cycles_seen() -> int:
    return sum(
        type(each) is Cycle for each in gc.get_objects()
    )  # torch has objects that warn of `isinstance`


def test_what_is_made_is_not_looked_at_until_it_is_taken_back() -> None:
    with lasting.set_aside():
        assert not gc.isenabled()
        Cycle()
    assert gc.isenabled()
    assert cycles_seen() == 0
    lasting.take_back()
    assert cycles_seen() == 1
    gc.collect()
    assert cycles_seen() == 0


def test_an_error_sets_nothing_aside_and_leaves_the_collector_at_work() -> None:
    with pytest.raises(DistexpError), lasting.set_aside():
        raise DistexpError("no")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with lasting.set_aside():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        lasting.take_back()
