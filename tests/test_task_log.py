"""A log in pieces, and its end."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distexp import task_log
from distexp.errors import ProtocolError
from distexp.task_log import PIECE_BYTES, TAIL_BYTES, last_lines, read_piece
from distexp.wire.framing import MAX_MESSAGE_BYTES, encode
from distexp.wire.messages import LogsReply
from tests.support import examples, poll


@examples(30)
@given(text=st.text(min_size=1), size=st.integers(4, 9))
def test_pieces_joined_are_the_text_whatever_their_size(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    log = tmp_path_factory.mktemp("log") / "log.txt"
    log.write_bytes(text.encode())
    read, offset = "", 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_log, "PIECE_BYTES", size)
        while (piece := read_piece(log, offset)) and piece.offset > offset:
            read, offset = read + piece.text, piece.offset
    assert (read, offset) == (text, len(text.encode()))


def test_half_a_character_at_the_end_is_left_for_the_next_piece(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes("a\u00e9".encode()[:2])
    piece = read_piece(log, 0)
    assert piece is not None
    assert (piece.text, piece.offset, piece.size) == ("a", 1, 2)
    log.write_bytes("a\u00e9".encode())
    rest = read_piece(log, 1)
    assert rest is not None
    assert rest.text == "\u00e9"


def test_the_worst_piece_fits_into_a_message(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"\x01" * 2 * PIECE_BYTES)
    piece = read_piece(log, 0)
    assert piece is not None
    reply = LogsReply(text=piece.text, offset=piece.offset, size=piece.size, state="assigned")
    assert len(encode(reply)) < MAX_MESSAGE_BYTES


def test_a_log_that_was_begun_anew_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("new")
    piece = read_piece(log, 1000)
    assert piece is not None
    assert piece.text == "new"


def test_no_log_is_no_piece_and_no_lines_and_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    assert read_piece(tmp_path / "log.txt", 0) is None
    assert last_lines(tmp_path / "log.txt", 3) == []
    with pytest.raises(ProtocolError, match=r"cannot be read now \(Is a directory\)"):
        read_piece(tmp_path, 0)


def test_the_last_lines_are_those_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert last_lines(log, 2) == ["line 9998", "line 9999"]


@pytest.mark.skipif(not shutil.which("yes"), reason="a program of Unix")
def test_the_last_lines_of_a_log_that_grows_as_fast_as_it_is_read_are_few(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with open(log, "wb") as file, subprocess.Popen(["yes"], stdout=file) as task:
        try:
            poll(lambda: log.stat().st_size > TAIL_BYTES, "output")
            found = [last_lines(log, TAIL_BYTES) for _ in range(20)]
        finally:
            task.kill()  # else it fills the disk
    assert max(map(len, found)) <= TAIL_BYTES / 2
