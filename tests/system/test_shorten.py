"""A log that others append to is cut in its middle, and progress bars are left in their last state."""

import subprocess
import sys
from pathlib import Path

import pytest

from distexp.system import shorten as shorten_module
from distexp.system.shorten import shorten

KIB = 1024


def test_a_long_log_keeps_its_beginning_and_its_end_and_says_how_much_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    lines = [b"line %d\n" % number for number in range(10_000)]
    log.write_bytes(b"".join(lines))
    shorten(log, 16 * KIB, hint=" (--max-log-mb 1)")
    text = log.read_bytes()
    assert len(text) <= 12 * KIB + 100
    head, _, rest = text.partition(b"# ")
    mark, _, tail = rest.partition(b"\n")
    assert b"".join(lines).startswith(head)
    assert b"".join(lines).endswith(tail)
    assert head.endswith(b"\n")
    assert tail.startswith(b"line ")
    left_out = len(b"".join(lines)) - len(head) - len(tail)
    assert mark == b"%d bytes of output are left out here (--max-log-mb 1)" % left_out


def test_it_is_cut_again_and_again_at_the_same_place_while_a_program_writes_to_it(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    writes = (
        "import sys\n"
        "for n in map(int, sys.stdin):\n"
        "    print('x' * 99)\n"
        "    n or print('end')\n"
        "    print(n, file=sys.stderr)\n"
    )
    with open(log, "ab") as output:
        program = subprocess.Popen(
            [sys.executable, "-uc", writes], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE
        )
    assert program.stdin is not None
    assert program.stderr is not None
    for number in range(500, -1, -1):
        program.stdin.write(b"%d\n" % number)
        program.stdin.flush()
        program.stderr.readline()
        shorten(log, 4 * KIB)
        assert log.stat().st_size <= 4 * KIB
    program.communicate()
    text = log.read_bytes()
    assert text.endswith(b"end\n")
    [mark] = [line for line in text.splitlines() if line.startswith(b"# ")]
    left_out = int(mark.split()[1])
    assert left_out == 501 * 100 + len(b"end\n") - (len(text) - len(mark) - 1)


def test_its_first_line_stays_the_first_beside_a_program_that_never_pauses(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("# the task\n")
    with open(log, "ab") as output:
        program = subprocess.Popen(["yes"], stdout=output)
    try:
        cuts = 0
        while cuts < 60:
            if log.stat().st_size > 8 * KIB:
                shorten(log, 8 * KIB)
                cuts += 1
            with log.open("rb") as file:
                assert file.readline() == b"# the task\n"
    finally:
        program.kill()
        program.wait()


def test_a_program_that_writes_faster_than_the_log_is_read_is_not_chased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, collapsed = tmp_path / "log.txt", shorten_module._collapsed

    def collapsed_meanwhile(text: bytes) -> tuple[bytes, bytes]:
        with log.open("ab") as file:
            file.write(b"more\n" * (shorten_module.READ_BYTES // 4))
        return collapsed(text)

    log.write_bytes(b"# the task\n" + b"line\n" * KIB * KIB)
    monkeypatch.setattr(shorten_module, "_collapsed", collapsed_meanwhile)
    shorten(log, 64 * KIB)
    assert log.stat().st_size <= 128 * KIB
    lines = log.read_bytes().splitlines()
    assert (lines[0], lines[-2]) == (b"# the task", b"more")


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_one_long_line_is_cut_too(tmp_path: Path, end: bytes) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"a" * 3 * KIB * KIB + b"b" + end)
    shorten(log, KIB * KIB)
    shorten(log, KIB * KIB, has_ended=True)
    head, mark, tail = log.read_bytes().splitlines()
    assert set(head) == set(b"a")
    assert len(head) == 512 * KIB
    assert tail == b"a" * (len(tail) - 1) + b"b"
    assert int(mark.split()[1]) + len(head) + len(tail) == 3 * KIB * KIB + 1


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        (b"\r 1%\r 2%\r100%\ndone\n", b"100%\ndone\n"),
        (b"10%\r20%\r", b"20%\r"),
        (b"bar\r\rnext\r\nline\r\n", b"next\r\nline\r\n"),
        (b"\r" * 9 + b"\n", b"\r\n"),
        (b"plain\n", b"plain\n"),
    ],
)
def test_of_a_progress_bar_the_last_state_stays(tmp_path: Path, printed: bytes, kept: bytes) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"# header\n" + printed)
    shorten(log, KIB, has_ended=True)
    assert log.read_bytes() == b"# header\n" + kept


def test_so_it_does_of_each_attempt_though_the_log_was_cut_meanwhile(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"# killed\n 1%\r 2%\r 3%" + b"\nline" * 1000)
    with log.open("ab") as file:
        file.write(b"\n# attempt 2\n 1%\r")
        file.flush()
        shorten(log, KIB)
        file.write(b" 2%\r100%\n")
    shorten(log, KIB, has_ended=True)
    lines = log.read_bytes().splitlines()
    assert lines[:2] == [b"# killed", b" 3%"]
    assert lines[-2:] == [b"# attempt 2", b"100%"]


def test_a_bar_of_a_gigabyte_of_states_costs_none_of_the_lines_around_it(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"begin\n" + b"\r%50d" % 1 * 60 * KIB + b"\nend\n")
    shorten(log, KIB * KIB)
    assert log.read_bytes().split() == [b"begin", b"1", b"end"]


def test_what_is_short_or_absent_or_no_file_is_left(tmp_path: Path) -> None:
    shorten(tmp_path / "none.txt", KIB, has_ended=True)
    assert not (tmp_path / "none.txt").exists()
    log = tmp_path / "log.txt"
    log.write_bytes(b"x\rx" * 10)
    shorten(log, KIB)
    assert log.read_bytes() == b"x\rx" * 10
    with pytest.raises(OSError, match=r"directory|denied"):
        shorten(tmp_path, KIB)


def test_a_log_within_its_limit_keeps_every_line_when_its_progress_bars_are_collapsed(tmp_path: Path) -> None:
    log, lines = tmp_path / "log.txt", b"".join(b"line %07d\n" % number for number in range(600_000))
    log.write_bytes(lines + b"1 %\r100 %\n")
    shorten(log, 8_000_000, has_ended=True)
    assert log.read_bytes() == lines + b"100 %\n"
