"""Files of other programs: their rows count as counted by hand, and no byte of them is lost."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distexp.errors import ConfigError, ResultsUnwritable
from distexp.results.audit import audit
from distexp.results.matching import TaskIndex
from distexp.results.results_file import RESULTS_FILE, ResultsFile, Scan
from distexp.results.store import ResultsStore
from distexp.sweep.config import parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint
from tests.row_cases import a_row, points_of
from tests.support import examples

LINES = st.lists(
    st.sampled_from(
        [
            *(b"0;42;0.1", b"0,42,0.1", b"1,42,0.1,9", b'1,"42",0.1', b'"a,\nb",42,0.1', b"too,few", b""),
            *(
                b'"never closed',
                b"\xff\xfe,1,2",
                b"\0,1,2",
                b"exp1\t1\t42",
                b"# note",
                b"1,42,0.1,",
                b'2,42,"x"',
            ),
        ]
    ),
    max_size=6,
)
HEADERS = [
    b"width,seed,lr",
    b"width;seed;lr",
    b"width\tseed\tlr",
    b"phase,width,seed,lr,duration_s",
    b"width",
]


def kept(before: bytes, after: bytes, end: bytes) -> bool:
    """Whether each line that was there still is, in its order, but for added empty cells."""
    new = iter(after.split(end))
    return all(any(is_line_of(line, each) for each in new) for line in before.split(end))


def is_line_of(before: bytes, after: bytes) -> bool:
    """Whether `after` is the line with nothing but separators added; a header may get names."""
    if before.strip(b"\r") in (b"", after.strip(b"\r")):
        return True
    letters = iter(after)
    return all(byte in letters for byte in before.strip(b"\r"))


@pytest.mark.slow
@examples(60)
@given(
    st.sampled_from(HEADERS),
    LINES,
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.booleans(),
)
@example(b"width,seed,lr", [b"7,42,0.1", b"8,42,0.1"], b"\r", b"", True)
def test_whatever_a_file_holds_each_line_stays_or_the_file_is_left_alone(
    header: bytes, lines: list[bytes], end: bytes, bom: bytes, is_ended: bool
) -> None:
    before = bom + end.join([header, *lines]) + (end if is_ended else b"")
    points = points_of(4)
    with TemporaryDirectory() as folder:
        path = Path(folder, "results_exp1", RESULTS_FILE)
        path.parent.mkdir()
        path.write_bytes(before)
        file = ResultsFile(Path(folder), "results_exp1", TaskIndex(points))
        try:
            for turn, point in enumerate(points):
                file.append([a_row(point.task, **{f"metric{turn}": 1})])
        except ResultsUnwritable:
            assert path.read_bytes() == before
            return
        after = path.read_bytes()
        torn = path.with_name(RESULTS_FILE + ".torn")
        if torn.exists():
            before = before.removesuffix(torn.read_bytes()[:-1])
        assert after.startswith(bom)
        assert kept(before, after, end[-1:])
        reader = ResultsFile(Path(folder), "results_exp1", TaskIndex(points))
        complete = set[str]().union(*(reader.scan().complete for _ in range(8)))  # an open quote takes two
        assert complete == {point.key for point in points}


GRID = """
seeds: [1, 2]
defaults: {experiment: "mine:run", output_dir: results_own}
p: {combinations: [{lr: [0.1, 0.333, 1.0e-5]}, {flag: [true, false]}]}
"""
LISTS = """
defaults: {experiment: "mine:run", output_dir: results_own}
p: {combinations: [{layers: [[1, 2], [3]]}, {flag: [true, false, null]}, {lr: [0.1, 0.2]}]}
"""
NO_SEED = """
defaults: {experiment: "mine:run", output_dir: results_own}
p: {combinations: [{lr: [0.1, 0.01]}, {depth: [2, 3]}]}
"""


def frame_of(points: list[GridPoint]) -> pd.DataFrame:
    """One typed row per task, every third left out, and two rows of no task."""
    rows = [{**point.task.config, "seed": point.seed, "acc": 0.5} for point in points]
    return pd.DataFrame([row for at, row in enumerate(rows) if at % 3] + [{**rows[0], "lr": 77.5}] * 2)


def as_pandas(frame: pd.DataFrame) -> bytes:
    return frame.to_csv().encode()


def as_spreadsheet(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, sep=";", lineterminator="\r\n").encode("utf-8-sig")


def as_wandb(frame: pd.DataFrame) -> bytes:
    renamed = frame.drop(columns="seed").rename(columns={"lr": "config/lr", "depth": "config.depth"})
    return renamed.to_csv(index=False, quoting=1).encode()


def as_python(frame: pd.DataFrame) -> bytes:
    noisy = frame.assign(lr=frame["lr"].astype(np.float32).astype(float))
    noisy["layers"] = [
        str(value) if at % 2 else json.dumps(value) for at, value in enumerate(noisy["layers"])
    ]
    return noisy.to_csv(index=False, lineterminator="\r").encode()


@pytest.mark.parametrize(
    ("config", "write"),
    [(GRID, as_pandas), (GRID, as_spreadsheet), (NO_SEED, as_wandb), (LISTS, as_python)],
)
def test_rows_of_other_programs_count_in_plan_and_manager_as_counted_by_hand(
    tmp_path: Path, config: str, write: object
) -> None:
    points = expand(parse_config(config, "c.yaml"))
    expected = {point.key for at, point in enumerate(points) if at % 3}
    path = tmp_path / "results_theirs" / RESULTS_FILE
    path.parent.mkdir()
    path.write_bytes(write(frame_of(points)))  # type: ignore[operator]
    (audited,) = audit(tmp_path, points)
    assert {key for row in audited.rows for key in row.keys} == expected
    assert [(problem.rows, "77.5" in problem.reason) for problem in audited.problems] == [(2, True)]
    scans: list[Scan] = []
    store = ResultsStore(tmp_path, scans.append)
    store.sync(points)
    store.scan_all()
    assert set().union(*(scan.complete for scan in scans)) == expected
    assert path.read_bytes() == write(frame_of(points))  # type: ignore[operator]


@pytest.mark.parametrize("values", ['[1, "1"]', '[null, "null"]', '["True", true]'])
def test_two_values_that_no_row_could_tell_apart_are_refused_at_load(values: str) -> None:
    with pytest.raises(ConfigError, match="look alike in a row: change one"):
        parse_config(f"p: {{combinations: [{{x: {values}}}]}}", "c.yaml")


@pytest.mark.parametrize("other", [b"", b'7,7,7,"quoted"\n'])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_line_break_of_another_kind_in_a_cell_does_no_harm_beside_quotes_either(
    tmp_path: Path, end: bytes, other: bytes
) -> None:
    points = points_of(2)
    odd = b"a\nb" if end == b"\r" else b"a\rb"
    lines = [b"width,seed,lr,note", b"0,42,0.1,x", b"1,42,0.1," + odd, b""]
    (tmp_path / RESULTS_FILE).write_bytes(end.join(lines) + other.replace(b"\n", end))
    scan = ResultsFile(tmp_path, ".", TaskIndex(points)).scan()
    assert scan.complete == {point.key for point in points}
