import subprocess
import sys

import pytest

from distexp.wire import doorman
from distexp.wire.doorman import MAX_UNAUTHENTICATED, ConnectionLimits
from tests.support import ENVIRONMENT


def test_who_has_shown_the_secret_makes_room_for_another_unauthenticated() -> None:
    door = ConnectionLimits()
    assert all(door.let_in("10.0.0.1") for _ in range(MAX_UNAUTHENTICATED))
    assert not door.let_in("10.0.0.1")
    assert door.let_in("10.0.0.2"), "each address has its own share"
    door.recognise("10.0.0.1")
    assert door.let_in("10.0.0.1")
    assert not door.let_in("10.0.0.1")
    door.forget("10.0.0.1", is_unauthenticated=True)
    assert door.let_in("10.0.0.1")


def test_a_flood_of_refusals_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorman, "WARNINGS_PER_MINUTE", 5)
    door = ConnectionLimits()
    for _ in range(100):
        door.complain("10.0.0.1:5", "nonsense")
    assert caplog.messages == ["10.0.0.1:5: refused: nonsense"] * 5
    clock = doorman.time.monotonic
    monkeypatch.setattr(doorman.time, "monotonic", lambda: clock() + 60)
    door.complain("10.0.0.1:5", "nonsense")
    assert caplog.messages[5:] == ["95 more refusals were not logged", "10.0.0.1:5: refused: nonsense"]
    for _ in range(6):
        door.complain("10.0.0.1:5", "nonsense")
    door.close()
    assert caplog.messages[-1] == "2 more refusals were not logged"


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are no files there")
def test_a_low_limit_of_open_files_is_raised_and_leaves_some_for_the_sweep() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "from distexp.wire.doorman import SPARE_FILES, ConnectionLimits\n"
        "door = ConnectionLimits()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), SPARE_FILES)\n"
        "print(sum(door.let_in(str(number)) for number in range(500)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stdout == "(200, 200) 64\n136\n"
