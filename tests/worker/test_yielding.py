"""Giving way to other users of a GPU; see also test_gpu_worker.py, where a worker does."""

from distexp.worker.yielding import OtherUsers


class SeesOneTooLate(OtherUsers):
    """The GPU is given back while it looks."""

    def look(self) -> str:
        self.__exit__()
        return "ann on gpu0"


def test_who_comes_to_a_gpu_that_was_given_back_does_not_stop_the_worker_again() -> None:
    stops: list[str] = []
    with SeesOneTooLate([], stops.append, look_s=0.0) as others:
        others._thread.join()
    assert stops == []
