"""The last line of a results file: torn, growing, or whole without its newline."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distexp.errors import ResultsUnwritable
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile
from distexp.task import Task
from tests.row_cases import a_row, a_task, tasks_of

BEFORE_LOOKS: list[Callable[[], object]] = []  # what is done before each of the next looks at a results file


def _before_look(event: str, args: tuple[Any, ...]) -> None:
    is_look = event == "open" and args[1] is not None  # `os.open`, which `open` calls, names no mode
    if is_look and BEFORE_LOOKS and str(args[0]).endswith(RESULTS_FILE):
        BEFORE_LOOKS.pop(0)()


sys.addaudithook(_before_look)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / RESULTS_FILE


def keys(*tasks: Task) -> frozenset[str]:
    return frozenset(task.key for task in tasks)


def test_a_torn_last_line_is_set_aside_after_two_scans(path: Path) -> None:
    task = a_task(lr=0.1)
    path.write_bytes(b"width,seed,lr\n1,4")
    torn = path.with_name(RESULTS_FILE + ".torn")
    file = ResultsFile(path.parent, ".", TaskIndex([task]))
    assert file.scan().warnings == ()
    assert not torn.exists()
    assert file.scan().warnings == (
        f"{path}:2: 1 row does not count: the last line is torn; it moves to the .torn file",
    )
    assert torn.read_bytes() == b"1,4\n"
    assert path.read_bytes() == b"width,seed,lr\n"
    with path.open("ab") as more:
        more.write(b"1,42,0.1\n")
    assert file.scan().complete == keys(task)


def test_a_line_that_grows_is_not_torn(path: Path) -> None:
    task = a_task(lr=0.1)
    path.write_bytes(b"width,seed,lr\n")
    file = ResultsFile(path.parent, ".", TaskIndex([task]))
    for piece in (b"1", b",", b"4", b"2,0.1"):
        with path.open("ab") as more:
            more.write(piece)
        assert file.scan().warnings == ()
    with path.open("ab") as more:
        more.write(b"\n")
    assert file.scan().complete == keys(task)


def test_an_append_sets_a_torn_line_aside_that_stays_so_for_two_looks(path: Path) -> None:
    task = a_task(lr=0.1)
    path.write_bytes(b'width,seed,lr\n7,"4')
    appended = ResultsFile(path.parent, ".", TaskIndex([task])).append(
        [(task, {"width": "1", "seed": "42", "lr": "0.1"})]
    )
    assert len(appended.scan.warnings) == 1
    assert path.read_bytes() == b"width,seed,lr\n1,42,0.1\n"
    assert path.with_name(RESULTS_FILE + ".torn").read_bytes() == b'7,"4\n'


def test_an_append_gives_a_program_without_our_lock_the_time_to_end_its_line(path: Path) -> None:
    mine, others, one_more = tasks_of(3)
    path.write_bytes(b"width,seed,lr,acc\n1,42,0.1,1\n2,4")
    writer = path.open("ab", buffering=0)

    file = ResultsFile(path.parent, ".", TaskIndex([mine, others, one_more]))
    row = (mine, {"width": "0", "seed": "42", "lr": "0.1", "acc": "1"})
    BEFORE_LOOKS.extend([lambda: None, lambda: writer.write(b"2,")])
    with pytest.raises(ResultsUnwritable) as refused:
        file.append([row])
    assert str(refused.value) == (
        f"{path}: another program still writes its last line; the row is kept and tried again"
    )
    BEFORE_LOOKS.extend([lambda: writer.write(b"0"), lambda: writer.write(b".1,1\n")])
    scan = file.append([row]).scan
    assert (scan.complete, scan.warnings) == (keys(mine, others, one_more), ())
    assert path.read_bytes() == b"width,seed,lr,acc\n1,42,0.1,1\n2,42,0.1,1\n0,42,0.1,1\n"
    writer.close()


def test_a_whole_last_line_without_newline_counts_and_the_next_row_begins_a_new_one(path: Path) -> None:
    first, second = tasks_of(2)
    path.write_bytes(b"width,seed,lr,acc\n0,42,0.1,0.98")
    file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
    assert file.scan().complete == keys(first)
    assert file.scan().complete == frozenset()
    file.append([(second, {"width": "1", "seed": "42", "lr": "0.1", "acc": "1"})])
    assert path.read_bytes() == b"width,seed,lr,acc\n0,42,0.1,0.98\n1,42,0.1,1\n"


def test_a_line_whose_last_parameter_may_still_grow_waits_for_the_next_scan(path: Path) -> None:
    short, long = a_task(seed=4), a_task(seed=42)
    path.write_bytes(b"width,seed\n")
    file = ResultsFile(path.parent, ".", TaskIndex([short, long]))
    file.scan()
    with path.open("ab") as more:
        more.write(b"1,4")
    assert file.scan().complete == frozenset()
    with path.open("ab") as more:
        more.write(b"2")
    assert file.scan().complete == frozenset()
    assert file.scan().complete == keys(long)


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_zeros_at_the_end_as_a_power_cut_leaves_them_hide_no_row(path: Path, size: int) -> None:
    path.write_bytes(b"width,seed\n1,42\n" + bytes(size))
    task, other = a_task(), a_task(width=2)
    file = ResultsFile(path.parent, ".", TaskIndex([task, other]))
    assert file.scan().complete == keys(task)
    assert file.append([a_row(other)]).written == keys(other)
    assert ResultsFile(path.parent, ".", TaskIndex([task, other])).scan().complete == keys(task, other)
