"""Results on their way: into the file once, or kept until they are handed over."""

from pathlib import Path

import pytest

from distexp.errors import ResultsUnwritable
from distexp.results.matching import TaskIndex
from distexp.results.results_file import ResultsFile
from distexp.results.spool import Spool
from distexp.task import Bookmark, Provenance
from distexp.wire.messages import TaskReply
from distexp.worker.recorder import Delivery, Recorder
from tests.row_cases import tasks_of


def a_delivery(*, lease: str = "lease1", score: float = 0.5, seen: Bookmark | None = None) -> Delivery:
    task = tasks_of(1)[0]
    reply = TaskReply(
        **{name: getattr(task, name) for name in task.__struct_fields__},
        **{"lease_id": lease, "attempt": 1, "writes_row": True, "sweep_id": "sweep1", "seen": seen},
    )
    return Delivery(task=reply, result={"score": score}, run=Provenance(worker="cpu0"))


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path, Spool(tmp_path / "spool"))


def lines_of(root: Path, delivery: Delivery) -> list[str]:
    return (root / delivery.task.output_dir / "final_results.csv").read_text().splitlines()


def test_the_first_of_two_results_for_a_task_is_its_row(recorder: Recorder, tmp_path: Path) -> None:
    recorder.write_row(a_delivery(score=0.5))
    recorder.write_row(a_delivery(lease="lease2", score=0.75))
    header, *rows = lines_of(tmp_path, a_delivery())
    assert len(rows) == 1
    assert dict(zip(header.split(","), rows[0].split(","), strict=True))["score"] == "0.5"


def test_a_row_that_was_written_after_the_managers_look_is_seen(recorder: Recorder, tmp_path: Path) -> None:
    first = a_delivery()
    path = tmp_path / first.task.output_dir / "final_results.csv"
    path.parent.mkdir()
    path.write_text("other\n1\n")
    file = ResultsFile(path, TaskIndex([first.task]))
    file.scan()
    seen = file.bookmark
    recorder.write_row(a_delivery())
    recorder.write_row(a_delivery(lease="lease2", seen=seen))
    assert len(lines_of(tmp_path, first)) == 3


def test_a_row_that_cannot_be_written_says_so(recorder: Recorder, tmp_path: Path) -> None:
    delivery = a_delivery()
    (tmp_path / delivery.task.output_dir / "final_results.csv").mkdir(parents=True)
    with pytest.raises(
        ResultsUnwritable, match=r"final_results\.csv: cannot be written now \(Is a directory"
    ):
        recorder.write_row(delivery)


def test_what_is_kept_comes_back_whole_until_it_is_forgotten(recorder: Recorder) -> None:
    first, second = a_delivery(), a_delivery(lease="lease2", score=float(2**60 + 1))
    recorder.keep(first)
    recorder.keep(second)
    assert recorder.kept() == [first, second]
    recorder.forget(first)
    recorder.forget(first)
    assert recorder.kept() == [second]


def test_a_kept_result_of_another_version_is_left_alone_and_named(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Spool(tmp_path / "spool").put("old", b'{"result": 1}')
    assert recorder.kept() == []
    (said,) = caplog.messages
    assert said.startswith("spooled result old: found none of this version (Expected `object`, got `int`")
    assert said.endswith("; left alone")
    assert (tmp_path / "spool" / "old.result").exists()
