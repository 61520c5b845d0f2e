"""Giving way to other users of a GPU; see also test_gpu_worker.py, where a worker does."""

import pytest

from distexp.worker import yielding
from distexp.worker.yielding import OtherUsers


class SeesOneTooLate(OtherUsers):
    """The GPU is given back while it looks."""

    def look(self) -> str:
        self.__exit__()
        return "ann on gpu0"


def test_who_comes_to_a_gpu_that_was_given_back_does_not_stop_the_worker_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yielding, "LOOK_S", 0.0)
    stops: list[str] = []
    with SeesOneTooLate([], stops.append) as others:
        others._thread.join()
    assert stops == []
