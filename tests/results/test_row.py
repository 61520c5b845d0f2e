from distexp.results.row import copied_row, is_ours, row_for
from distexp.task import Provenance
from tests.row_cases import RUN, a_row, a_task


def test_a_row_holds_identity_parameters_metrics_and_provenance_in_this_order() -> None:
    row = row_for(a_task(width=4, lr=5e-4), {"test_acc": 0.1 + 0.2, "converged": True}, RUN)
    assert list(row.items()) == [
        ("phase", "exp1"),
        ("task_id", "exp1_4_42"),
        ("width", "4"),
        ("lr", "0.0005"),
        ("seed", "42"),
        ("test_acc", "0.30000000000000004"),
        ("converged", "True"),
        ("peak_gpu_mib", ""),
        ("torch_version", "2.13.0"),
        ("python_version", "3.11.2"),
        ("git_commit", "c0ffee"),
        ("git_dirty", "False"),
        ("code", ""),
        ("attempt", "1"),
        ("worker", "cpu0"),
        ("host", "node1"),
        ("device", "cpu"),
        ("started_utc", "2026-01-01T00:00:00Z"),
        ("run_dir", ""),
        ("duration_s", "1.25"),
    ]


def test_a_parameter_named_like_a_provenance_column_wins() -> None:
    row = row_for(a_task(device="tpu"), {}, RUN)
    assert row["device"] == "tpu"
    assert list(row).index("device") < list(row).index("seed")


def test_texts_about_the_run_are_made_writable() -> None:
    row = row_for(a_task(), {}, Provenance(host="a\0b\ud800", device="x" * 100_000))
    assert row["host"] == "a\ufffdb\ufffd"
    assert len(row["device"]) == 32_767


def test_a_duplicate_gets_the_row_under_its_own_name() -> None:
    done, duplicate = a_task(lr=0.1), a_task(lr=0.1, phase="exp2", axes=("lr",))
    row = a_row(done, test_acc=0.5)[1] | {"other_phase_axis": "", "note": "by hand"}
    copy = copied_row(done, duplicate, row)
    assert copy == {n: c for n, c in a_row(duplicate, test_acc=0.5)[1].items() if c} | {"note": "by hand"}
    assert list(copy)[-1] == "duration_s"


def test_a_metric_called_like_what_the_duplicate_lacks_gets_another_name() -> None:
    done, duplicate = a_task(lr=0.1), a_task(lr=0.1, phase="exp2", axes=("lr", "momentum"))
    copy = copied_row(done, duplicate, a_row(done, momentum=0.5)[1])
    assert "momentum" not in copy
    assert copy["momentum_result"] == "0.5"


def test_a_column_without_a_name_numbers_the_rows_and_so_does_what_pandas_makes_of_it() -> None:
    assert all(map(is_ours, ["", " ", "Unnamed: 0", "Unnamed: 0.1", "Unnamed: 0_level_1"]))
    assert not any(map(is_ours, ["acc", "Unnamed: loss", "unnamed"]))
