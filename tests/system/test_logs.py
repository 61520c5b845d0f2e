"""Log lines: one line each, whatever they quote."""

import logging
import os
import stat
from pathlib import Path

import pytest

from distexp.system import logs
from distexp.system.logs import log_to_file, stop_logging_to


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is a thing of Linux")
def test_a_full_disk_costs_lines_and_nothing_else_also_when_the_log_is_closed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = log_to_file(Path("/dev/full"))
    logging.getLogger("distexp").warning("a line")
    stop_logging_to(handler)
    assert handler not in logging.getLogger().handlers
    assert "Traceback" not in capsys.readouterr().err


def test_a_log_rotates_and_its_name_is_always_that_of_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    monkeypatch.setattr(logs, "LOOK_EVERY", 1)
    path = tmp_path / "experiment_manager.log"
    handler = log_to_file(path)
    for number in range(1000):
        logging.getLogger("distexp").warning("line %d", number)
    stop_logging_to(handler)
    assert path.read_text().endswith("line 999\n")
    assert {each.name for each in tmp_path.iterdir()} == {
        "experiment_manager.log",
        *(f"experiment_manager.log.{number}" for number in range(1, 6)),
    }
    assert all(each.stat().st_size <= 2000 for each in tmp_path.iterdir())


def test_a_log_that_another_program_has_open_is_begun_anew_and_no_older_one_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows it cannot be renamed meanwhile."""
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    monkeypatch.setattr(logs, "LOOK_EVERY", 1)
    path = tmp_path / "experiment_manager.log"
    path.with_name(f"{path.name}.1").write_text("an older one\n")
    handler = log_to_file(path)
    logging.getLogger("distexp").warning("line 0")
    with path.open(encoding="utf-8"):
        for number in range(1, 200):
            logging.getLogger("distexp").warning("line %d", number)
    stop_logging_to(handler)
    oldest, *texts = [each.read_text() for each in sorted(tmp_path.iterdir(), reverse=True)]
    assert oldest == "an older one\n"
    assert "".join(texts).split()[3::4] == [str(number) for number in range(200)]
    assert all(len(text) <= 2000 for text in texts)


@pytest.mark.skipif(os.name != "posix", reason="Windows renames no open file, and has no modes")
def test_a_log_that_was_moved_away_is_begun_anew_and_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOOK_EVERY", 1)
    path = tmp_path / "worker_gpu0.log"
    path.touch(0o644)
    handler = log_to_file(path)
    logging.getLogger("distexp").warning("first")
    path.rename(tmp_path / "worker_gpu0.log.1")  # as a worker on another host does
    logging.getLogger("distexp").warning("second")
    stop_logging_to(handler)
    assert (tmp_path / "worker_gpu0.log.1").read_text().endswith(" first\n")
    assert path.read_text().endswith(" second\n")
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
