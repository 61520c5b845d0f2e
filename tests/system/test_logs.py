"""Log lines: one line each, whatever they quote."""

import logging
from pathlib import Path

import pytest

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
