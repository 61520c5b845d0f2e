import io
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distexp.errors import ResultsUnwritable
from distexp.results import results_file
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile, Scan
from distexp.system import locks
from distexp.task import Task
from tests.row_cases import a_row, a_task, points_of, tasks_of

OPENED: list[str] = []  # files opened in this process while `recording` is in use
_RECORDING = [False]
UNSEPARATED = "does not separate its cells by commas, semicolons or tabs ({}); save it with commas"


def _record(event: str, args: tuple[Any, ...]) -> None:
    if _RECORDING[0] and event == "open":
        OPENED.append(str(args[0]))


sys.addaudithook(_record)


@pytest.fixture
def recording() -> Iterator[list[str]]:
    OPENED.clear()
    _RECORDING[0] = True
    yield OPENED
    _RECORDING[0] = False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / RESULTS_FILE


def keys(*tasks: Task) -> frozenset[str]:
    return frozenset(task.key for task in tasks)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


# -- appending -----------------------------------------------------------------------------------------------


def test_a_new_file_holds_header_and_rows_as_pandas_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "results_exp1" / "wine" / RESULTS_FILE
    task = a_task(lr=5e-4, note='a "quoted", line\nand\r\nmore', act="relu")
    appended = ResultsFile(path.parent, ".", TaskIndex([task])).append(
        [a_row(task, acc=0.1 + 0.2, ok=True, loss=float("nan"))]
    )
    assert appended.written == appended.scan.complete == keys(task)
    row = pd.read_csv(path).iloc[0]
    assert (row["acc"], row["lr"], row["width"], row["note"]) == (0.1 + 0.2, 5e-4, 1, task.config["note"])
    assert row["ok"].dtype == bool
    assert pd.isna(row["loss"])
    assert list(read(path).columns)[-1] == "duration_s"
    assert ResultsFile(path.parent, ".", TaskIndex([task])).scan().complete == keys(task)


def test_an_append_copies_nothing_of_the_rows_that_are_there(path: Path) -> None:
    points = points_of(5_000)
    first, second, third, *others = [point.task for point in points]
    file = ResultsFile(path.parent, ".", TaskIndex(points))
    file.append([a_row(task) for task in others])
    peaks_bytes = []
    for task in (first, second, third):  # what is made once, or by another thread, counts once
        tracemalloc.start()
        file.append([a_row(task)])
        peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks_bytes) < 50_000, "a set of 5,000 keys takes 500,000"


def test_a_task_gets_no_second_row(path: Path) -> None:
    first, second = tasks_of(2)
    mine, other = (ResultsFile(path.parent, ".", TaskIndex([first, second])) for _ in range(2))
    assert mine.append([a_row(first, acc=1), a_row(first, acc=2)]).written == keys(first)
    appended = other.append([a_row(first, acc=3), a_row(second, acc=4)])
    assert appended.written == keys(second)
    assert appended.scan.complete == keys(first, second)
    assert mine.append([a_row(second, acc=5)]).written == frozenset()
    assert list(read(path)["acc"]) == ["1", "4"]


def test_a_task_that_the_index_has_forgotten_gets_no_second_row_either(path: Path) -> None:
    task = a_task()
    index = TaskIndex([task])
    file = ResultsFile(path.parent, ".", index)
    file.append([a_row(task)])
    index.sync([])
    file.reset()
    file.scan()
    assert file.append([a_row(task)]).written == frozenset()
    assert len(read(path)) == 1


def test_a_row_follows_the_columns_of_the_file_and_its_line_ends(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfseed,notes,width,seed,lr\r\n42,first,7,,0.1\r\n")
    task = a_task(width=3, lr=0.1)
    row = {"width": "3", "seed": "42", "lr": "0.1"}
    ResultsFile(path.parent, ".", TaskIndex([task])).append([(task, row)])
    assert path.read_bytes() == b"\xef\xbb\xbfseed,notes,width,seed,lr\r\n42,first,7,,0.1\r\n42,,3,,0.1\r\n"


def test_a_lacking_column_is_added_before_duration_s_and_nothing_else_changes(path: Path) -> None:
    old, new = tasks_of(2)
    reader = ResultsFile(path.parent, ".", TaskIndex([old, new]))
    reader.append([a_row(old, acc=1)])
    with path.open("a") as file:
        file.write('too,few\n"never closed\n\n')
    assert len(reader.scan().warnings + reader.scan().warnings) == 2  # a quote may still be closed: two looks
    writer = ResultsFile(path.parent, ".", TaskIndex([new]))
    assert writer.scan().warnings + writer.scan().warnings
    appended = writer.append([a_row(new, acc=2, f1="a,b")])
    assert appended.written == keys(new)
    assert list(read_good_lines(path).columns[-3:]) == ["run_dir", "f1", "duration_s"]
    assert list(read_good_lines(path)["f1"]) == ["", "a,b"]
    assert list(read_good_lines(path)["duration_s"]) == ["1.25", "1.25"]
    assert path.read_text().splitlines()[2:4] == ["too,few,", '"never closed,']
    scan = reader.scan()
    assert (scan.complete, scan.vanished) == (keys(old, new), frozenset())
    assert sorted(child.name for child in path.parent.iterdir()) == [RESULTS_FILE, RESULTS_FILE + ".lock"]


def read_good_lines(path: Path) -> pd.DataFrame:
    lines = path.read_text().splitlines(keepends=True)
    return read(io.StringIO("".join(line for line in lines if line.count(",") >= lines[0].count(","))))  # type: ignore[arg-type]


def test_a_link_to_the_file_stays_a_link_when_columns_are_added(tmp_path: Path, path: Path) -> None:
    old, new = tasks_of(2)
    elsewhere = tmp_path / "elsewhere" / RESULTS_FILE
    ResultsFile(elsewhere.parent, ".", TaskIndex([old])).append([a_row(old)])
    path.symlink_to(elsewhere)
    ResultsFile(path.parent, ".", TaskIndex([new])).append([a_row(new, another=1)])
    assert path.is_symlink()
    assert len(read(elsewhere)) == 2


def test_a_file_gets_no_more_columns_than_its_readers_bear(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = tasks_of(2)
    ResultsFile(path.parent, ".", TaskIndex([old])).append([a_row(old, **{f"m{i}": i for i in range(1500)})])
    appended = ResultsFile(path.parent, ".", TaskIndex([new])).append(
        [a_row(new, **{f"n{i}": i for i in range(1500)})]
    )
    assert appended.written == keys(new)
    columns = read(path).columns
    assert len(columns) == 2000
    assert "n0" in columns
    assert "metrics are left out" in caplog.text


def test_metrics_without_a_column_stand_in_result_json_of_the_run_folder(path: Path) -> None:
    tasks = tasks_of(4)
    rows = [
        (task, row | {"run_dir": run_dir})
        for (task, row), run_dir in zip(
            (
                a_row(task, **{f"m{number}_{i}": i / 2 for i in range(1500)})
                for number, task in enumerate(tasks)
            ),
            ("runs/0", "runs/1", "../outside", ""),
            strict=True,
        )
    ]
    root = path.parent
    ResultsFile(root, ".", TaskIndex(tasks)).append(rows)
    assert len(read(path).columns) == 2000
    assert not (root / "runs" / "0").exists()
    left = json.loads((root / "runs" / "1" / "result.json").read_text(encoding="utf-8"))
    assert left["m1_1499"] == 749.5
    assert not left.keys() & set(read(path).columns)
    assert not (root.parent / "outside").exists()
    made = read(path)["run_dir"].iloc[3]
    assert made.endswith(tasks[3].key), "a folder that is made for it stands in the row"
    assert json.loads((root / made / "result.json").read_text(encoding="utf-8"))["m3_1499"] == 749.5


@pytest.mark.parametrize(("written", "kept"), [("2026-11-30T09:59:59", False), ("2026-11-30T10:00:01", True)])
def test_a_result_json_of_an_earlier_attempt_makes_room(path: Path, written: str, kept: bool) -> None:
    (task,) = tasks_of(1)
    _, row = a_row(task, **{f"m{i}": i for i in range(2100)})
    whole = path.parent / "runs" / "0" / "result.json"
    whole.parent.mkdir(parents=True)
    whole.write_text('{"whole": 1}', encoding="utf-8")
    written_s = datetime.fromisoformat(f"{written}+00:00").timestamp()
    os.utime(whole, (written_s, written_s))
    row |= {"run_dir": "runs/0", "started_utc": "2026-11-30T10:00:00Z"}
    ResultsFile(path.parent, ".", TaskIndex([task])).append([(task, row)])
    assert ("whole" in json.loads(whole.read_text(encoding="utf-8"))) is kept


@pytest.mark.parametrize("start", [b"", b"\n", b"   "])
def test_a_file_without_text_gets_its_header(path: Path, start: bytes) -> None:
    path.write_bytes(start)
    task = a_task()
    ResultsFile(path.parent, ".", TaskIndex([task])).append([a_row(task)])
    assert ResultsFile(path.parent, ".", TaskIndex([task])).scan().complete == keys(task)
    assert list(read(path)["width"]) == ["1"]


def test_a_header_without_its_newline_gets_it(path: Path) -> None:
    path.write_bytes(b"width,seed")
    task = a_task()
    file = ResultsFile(path.parent, ".", TaskIndex([task]))
    assert file.scan().complete == frozenset()
    file.append([(task, {"width": "1", "seed": "42"})])
    assert path.read_bytes() == b"width,seed\n1,42\n"


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"\x89PNG\xff\xfe\n\x00\n", "is no UTF-8 text; save it as UTF-8"),
        ("width,seed\n1,42\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"a,\0,b\n", "holds NUL bytes; save it as CSV in UTF-8"),
        (b'width,"seed\n', "has a first line that cannot be read: it has a quote that is never closed"),
        (
            b'width,"se"ed,lr\n',
            "has a first line that cannot be read: it goes on after a closing quote; "
            "put the whole cell in quotes, and write each quote in it twice",
        ),
        (b"sep=;\nwidth;seed\n1;42\n", "begins with the line sep=;; delete that line"),
        (
            b"# by hand\nwidth,seed\n",
            "begins with a comment, not with the names of its columns; delete that line",
        ),
        (
            b"1,42,0.5\n2,42,0.6\n",
            "has a first line that names no parameter of this sweep (1, 42, 0.5); "
            "if that is no header, write one, "
            "or say in the phase what its columns are called: `renamed_from: {PARAMETER: [COLUMN]}`",
        ),
        (
            b"# by hand, mostly\n\nwidth,seed\n1,42\n",
            "has text above its header (width, seed); delete what is above",
        ),
        (
            b"params.width,params.seed,acc\n1,0.1,0.5\n",
            "has no column called as a parameter of this sweep; `params.seed` looks like one: "
            "`renamed_from: {seed: [params.seed], width: [params.width]}`",
        ),
        (b"width|seed\n1|42\n", UNSEPARATED.format("width|seed")),
        (b"acc width seed\n0.5 1 42\n", UNSEPARATED.format("acc width seed")),
        (b'"width", "seed"\n"1", "42"\n', "has blanks before its quotes; save it without them"),
        (b"PK\x03\x04\x14\0", "is a workbook or compressed, not text; save it as CSV in UTF-8"),
        (
            b"width;seed;acc\n1;42;0,5\n",
            "has numbers with a decimal comma (0,5); save it with decimal points",
        ),
    ],
)
def test_a_file_without_a_usable_header_is_named_and_left_as_it_is(
    path: Path, header: bytes, problem: str
) -> None:
    path.write_bytes(header)
    task = a_task()
    file = ResultsFile(path.parent, ".", TaskIndex([task]))
    assert file.scan().warnings == (f"{path} {problem}; its rows do not count",)
    with pytest.raises(ResultsUnwritable) as refused:
        file.append([a_row(task)])
    assert str(refused.value) == f"{path} {problem}, or move the file away: the row is kept"
    assert path.read_bytes() == header


def test_a_lock_that_is_held_too_long_means_try_again(path: Path) -> None:
    task = a_task()
    with locks.acquire(f"{path}.lock"), pytest.raises(ResultsUnwritable) as refused:
        ResultsFile(path.parent, ".", TaskIndex([task]), lock_timeout_s=0.02).append([a_row(task)])
    assert str(refused.value) == (
        f"{path}.lock is locked by another process (waited 0.02 s); the row is kept and tried again"
    )
    assert not path.exists()


def test_a_folder_that_cannot_be_made_means_try_again(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the folder belongs")
    path, task = tmp_path / "results" / RESULTS_FILE, a_task()
    with pytest.raises(ResultsUnwritable) as refused:
        ResultsFile(path.parent, ".", TaskIndex([task])).append([a_row(task)])
    assert (
        str(refused.value)
        == f"{path}: cannot be written now (Not a directory); the row is kept and tried again"
    )


# -- scanning ------------------------------------------------------------------------------------------------


def test_a_scan_without_news_opens_nothing(path: Path, recording: list[str]) -> None:
    task = a_task()
    file = ResultsFile(path.parent, ".", TaskIndex([task]))
    file.append([a_row(task)])
    assert str(path) in recording
    recording.clear()
    assert file.scan() == Scan()
    assert str(path) not in recording


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/io"), reason="counts bytes as Linux does")
def test_a_scan_reads_only_what_is_new(path: Path) -> None:
    points = points_of(5_000)
    tasks = [point.task for point in points]
    file = ResultsFile(path.parent, ".", TaskIndex(points))
    file.append([a_row(task) for task in tasks[1:]])
    ResultsFile(path.parent, ".", TaskIndex([tasks[0]]), file.bookmark).append([a_row(tasks[0])])
    before = bytes_read()
    assert file.scan().complete == keys(tasks[0])
    assert bytes_read() - before < path.stat().st_size / 10


def bytes_read() -> int:
    return int(Path("/proc/thread-self/io").read_text().split()[1])


def test_rows_that_go_are_told(path: Path) -> None:
    first, second = tasks_of(2)
    file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
    file.append([a_row(first), a_row(second)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    assert file.scan().vanished == keys(first)
    path.unlink()
    assert file.scan().vanished == keys(second)
    assert file.scan().vanished == frozenset()
    path.write_text("".join(lines))
    assert file.scan().complete == keys(first, second)


def test_an_edit_in_place_of_the_same_length_is_seen(path: Path) -> None:
    first, second = tasks_of(2)
    file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
    file.append([a_row(first)])
    text = path.read_text().replace("exp1_0_42,0", "exp1_0_42,1")
    os.utime(path, ns=(1, 1))
    file.scan()
    path.write_text(text)
    scan = file.scan()
    assert (scan.complete, scan.vanished) == (keys(second), keys(first))


def test_a_row_inserted_above_is_seen(path: Path) -> None:
    first, second, third = tasks_of(3)
    file = ResultsFile(path.parent, ".", TaskIndex([first, second, third]))
    file.append([a_row(first), a_row(second)])
    header, row, *rest = path.read_text().splitlines(keepends=True)
    inserted = row.replace("exp1_0_42,0", "exp1_2_42,2")
    path.write_text("".join([header, row, inserted, *rest]))
    assert third.key in file.scan().complete


def test_another_reader_goes_on_from_a_bookmark_while_it_fits(path: Path) -> None:
    first, second = tasks_of(2)
    file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
    assert file.bookmark is None
    file.append([a_row(first)])
    handed = file.bookmark
    file.append([a_row(second)])
    both = TaskIndex([first, second])
    assert ResultsFile(path.parent, ".", both, handed).scan().complete == keys(second)
    text = path.read_text()
    path.write_text("note," + "x,".join(text.splitlines(keepends=True)))
    assert ResultsFile(path.parent, ".", both, handed).scan().complete == keys(first, second)
    path.write_text(text.replace("host", "node"))
    assert ResultsFile(path.parent, ".", both, handed).scan().complete == keys(first, second)


def test_reset_reads_everything_again(path: Path) -> None:
    first, second = tasks_of(2)
    index = TaskIndex([first])
    file = ResultsFile(path.parent, ".", index)
    ResultsFile(path.parent, ".", TaskIndex()).append([a_row(first), a_row(second)])
    assert file.scan().complete == keys(first)
    index.sync([second])
    file.reset()
    scan = file.scan()
    assert (scan.complete, scan.vanished) == (keys(second), frozenset())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"1,42\n", "has 2 cells, and the header 3"),
        (b"1,42,3,4,5\n", "has 5 cells, and the header 3"),
        (b"\x80\xff,42,0.1\n", "is no UTF-8 text; save the file as UTF-8"),
        (b"\0\0\0\0\n", "holds NUL bytes"),
        (b'1,"42,0.1\n', "has a quote that is never closed"),
        (b'1,"4"2,0.1\n',
         "goes on after a closing quote; put the whole cell in quotes, and write each quote in it twice"),
        (b'1,4\r2,"0.1"\n', "has a line break outside of quotes; put the cell in quotes"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_once_and_hides_no_other(path: Path, line: bytes, found: str) -> None:
    first, second = tasks_of(2)
    good = b"width,seed,lr\n\n0,42,0.1\n"
    path.write_bytes(good + line + b"1,42,0.1\n")
    file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
    warnings, complete = [], set[str]()
    for _ in range(3):
        scan = file.scan()
        warnings += scan.warnings
        complete |= scan.complete
    assert warnings == [f"{path}:4: 1 row does not count: the line {found}"]
    assert complete == keys(first, second)
    file.append([a_row(a_task(width=9, lr=0.1))])
    assert file.scan().warnings == ()
    assert ResultsFile(path.parent, ".", TaskIndex([second])).find({second.key}).keys() == keys(second)


def test_many_bad_lines_are_one_warning_with_their_count(path: Path) -> None:
    path.write_bytes(b"width,seed\n" + b"\xff\n" * 30_000 + b"1,42\n")
    task = a_task()
    scan = ResultsFile(path.parent, ".", TaskIndex([task])).scan()
    assert scan.complete == keys(task)
    assert scan.warnings == (
        f"{path}:2: 30000 rows do not count: the line is no UTF-8 text; save the file as UTF-8",
    )


@pytest.mark.parametrize("text", [b"x", b"\0", b'"'])
def test_a_line_of_any_length_is_passed_over(path: Path, text: bytes) -> None:
    path.write_bytes(b"width,seed\n\n" + text * 9_000_000 + b"\n1,42\n")
    task = a_task()
    scan = ResultsFile(path.parent, ".", TaskIndex([task])).scan()
    assert scan.complete == keys(task)
    assert scan.warnings == (f"{path}:3: 1 row does not count: the line is longer than 4194304 bytes",)


def test_a_file_without_an_axis_says_so_once(path: Path) -> None:
    path.write_bytes(b"phase,seed,acc\nexp1,42,1\n")
    file = ResultsFile(path.parent, ".", TaskIndex([a_task()]))
    warning = (
        f"{path}:2: 1 row does not count: no column `width`, which phase exp1 varies; "
        "write `renamed_from: {width: [COLUMN]}` into the phase if a column holds it by another name, "
        "or `assume: {width: VALUE}` if all rows have one value of it"
    )
    assert file.scan().warnings == (warning,)
    with path.open("a") as more:
        more.write("exp1,7,1\n")
    file.reset()
    assert file.scan().warnings == ()


def test_newlines_and_quotes_within_cells_are_read_across_scans(path: Path) -> None:
    task = a_task(width='a\n"b",\r\nc')
    file = ResultsFile(path.parent, ".", TaskIndex([task]))
    path.write_bytes(b'width,seed\n"a\n""b"",\r\n')
    assert file.scan() == Scan()
    with path.open("ab") as more:
        more.write(b'c",42\n')
    assert file.scan().complete == keys(task)


def test_a_file_that_was_replaced_just_before_an_append_is_read_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = a_task(), a_task(width=2)
    file = ResultsFile(path.parent, ".", TaskIndex([first, second]))
    file.append([a_row(first)])
    append = results_file.append_durably

    def replace_and_append(target: Path, data: bytes) -> os.stat_result:
        copy = target.with_name("edited.csv")
        copy.write_bytes(target.read_bytes().replace(b"\nexp1,", b"\nexp9,"))
        os.replace(copy, target)
        return append(target, data)

    monkeypatch.setattr("distexp.results.results_file.append_durably", replace_and_append)
    appended = file.append([a_row(second)])
    assert (appended.written, appended.scan.vanished) == (keys(second), keys(first))


# -- finding -------------------------------------------------------------------------------------------------


def test_find_returns_the_first_row_of_the_task(path: Path) -> None:
    one, two, five = (a_task(width=width) for width in (1, 2, 5))
    file = ResultsFile(path.parent, ".", TaskIndex([one, two, five]))
    assert file.find(keys(one)) == {}
    path.write_bytes(b"width,seed,acc,acc\n2,42,0,0\n1,42,0.5,0\n1,42,0.6,0")
    assert file.find(keys(one, two, five)) == {
        one.key: {"width": "1", "seed": "42", "acc": "0.5"},
        two.key: {"width": "2", "seed": "42", "acc": "0"},
    }
