import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from distexp.context import Context

QUICK: dict[str, Any] = {"dataset": "wine", "epochs": 6, "batch_size": 16}
CHECKPOINT = "resume.pt"


def run(params: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Import torch with the first training: each process of pytest reads every test file."""
    from distexp.experiments.classification import run

    return dict(run(dict(params), context))


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def context(folder: Path, seed: int = 42, **others: Any) -> Context:
    return Context(seed=seed, checkpoint_dir=folder, **others)


def stop_after(calls: int) -> Callable[[], bool]:
    """Return a stop request that comes at the given call, which is that many batches later."""
    remaining = iter([False] * calls)
    return lambda: next(remaining, True)


def test_a_result_holds_every_metric_as_a_plain_value(tmp_path: Path) -> None:
    result = run(QUICK, context(tmp_path))
    assert {name: type(value) for name, value in result.items()} == {
        "test_acc": float, "test_loss": float, "val_acc": float, "val_loss": float, "train_acc": float,
        "train_loss": float, "num_parameters": int, "best_epoch": int, "epochs_run": int,
    }  # fmt: skip
    assert result["num_parameters"] == 13 * 4 + 4 + 4 * 3 + 3
    assert result["epochs_run"] == 6


@pytest.mark.parametrize("dataset", ["digits", "wine", "breast_cancer"])
def test_training_learns(dataset: str, tmp_path: Path) -> None:
    result = run({"dataset": dataset, "epochs": 10, "width_factor": 8}, context(tmp_path))
    assert float(result["test_acc"]) > 0.9
    assert float(result["train_acc"]) > 0.9


def test_a_cnn_learns_images(tmp_path: Path) -> None:
    params = {"model": "cnn", "width_factor": 2, "depth": 3, "epochs": 5}
    result = run(params, context(tmp_path))
    assert float(result["test_acc"]) > 0.85
    channels = 8  # 8 x 8 -> 4 x 4, which stays
    convolutions = (9 * 1 + 1) * channels + 2 * (9 * channels + 1) * channels
    assert result["num_parameters"] == convolutions + (channels * 4 * 4 + 1) * 10


@pytest.mark.parametrize(
    "others",
    [
        {"optimizer": "sgd", "weight_decay": 0.1},
        {"optimizer": "adamw"},
        {"dataset": "digits", "model": "cnn", "batch_size": 256},
        {"label_noise": 0.3, "depth": 3},
    ],
)
def test_the_same_seed_gives_the_same_row_bit_for_bit(others: dict[str, Any], tmp_path: Path) -> None:
    import torch

    params = QUICK | others
    first = run(params, context(tmp_path / "a"))
    torch.manual_seed(1)  # neither the global state nor the order of the parameters matters
    again = run(dict(reversed(params.items())), context(tmp_path / "b"))
    assert first == again
    assert run(params, context(tmp_path / "c", seed=43)) != first


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_row_as_a_warm_one(tmp_path: Path) -> None:
    from distexp.experiments.classification import warm_up

    warm_up()
    code = (
        "import sys, pathlib; from distexp.context import Context\n"
        "from distexp.experiments.classification import run\n"
        f"print(run({QUICK!r}, Context(seed=42, checkpoint_dir=pathlib.Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "fresh")]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True)
    assert fresh.stdout == f"{run(QUICK, context(tmp_path / 'warm'))}\n"


def test_the_global_random_state_is_neither_read_nor_moved(tmp_path: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    run(QUICK, context(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_negative_seed_is_a_seed_like_any_other(tmp_path: Path) -> None:
    assert run(QUICK, context(tmp_path / "a", seed=-1)) == run(QUICK, context(tmp_path / "b", seed=-1))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_interrupted_training_ends_in_the_row_of_an_undisturbed_one(
    optimizer: str, tmp_path: Path
) -> None:
    params = QUICK | {"optimizer": optimizer, "label_noise": 0.1, "patience": 5}
    undisturbed = run(params, context(tmp_path / "a"))
    for batches in (0, 1, 10, 7):  # 7 batches an epoch: at the start, in an epoch, at the end of one
        with pytest.raises(Context.Stopped, match=r"^stopped in epoch \d of 6$"):
            run(params, context(tmp_path / "b", stop_requested=stop_after(batches)))
    assert run(params, context(tmp_path / "b")) == undisturbed


def test_an_interrupted_training_goes_on_where_it_stood(tmp_path: Path) -> None:
    with pytest.raises(Context.Stopped):
        run(QUICK, context(tmp_path, stop_requested=stop_after(7 * 4)))
    steps = []
    run(QUICK, context(tmp_path, on_report=lambda step, total, metrics: steps.append(step)))
    assert steps == [5, 6]


def test_a_checkpoint_can_be_loaded_without_unpickling_objects(tmp_path: Path) -> None:
    import torch

    with pytest.raises(Context.Stopped):
        run(QUICK, context(tmp_path, stop_requested=stop_after(10)))
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert saved["state"]["progress"]["epoch"] == 2
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_checkpoints_are_saved_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("distexp.experiments.training.CHECKPOINT_EVERY_S", 3600.0)
    run(QUICK, context(tmp_path / "a"))
    assert not any((tmp_path / "a").iterdir())  # shorter than the interval
    monkeypatch.setattr("distexp.experiments.training.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("distexp.experiments.training.SAVING_SHARE", 1e9)
    run(QUICK, context(tmp_path / "b"))
    assert torch.load(tmp_path / "b" / CHECKPOINT, weights_only=True)["state"]["progress"]["epoch"] == 6


@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "foreign"])
def test_a_damaged_checkpoint_is_ignored_with_a_warning(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = run(QUICK, context(tmp_path / "a"))
    with pytest.raises(Context.Stopped):
        run(QUICK, context(tmp_path, stop_requested=stop_after(10)))
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    middle = whole.index(b"PK", 1000) - 40  # inside a stored tensor
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    foreign = b"test_acc,seed\n0.9,42\n"
    path.write_bytes({"empty": b"", "torn": whole[:-100], "flipped": flipped, "foreign": foreign}[damage])
    assert run(QUICK, context(tmp_path)) == undisturbed
    printed = capsys.readouterr().out
    assert re.fullmatch(
        rf"warning: {re.escape(str(path))}: not readable as a checkpoint \(.+\); "
        r"the task starts from the beginning\n",
        printed,
    )


@pytest.mark.parametrize(("seed", "params"), [(43, QUICK), (42, QUICK | {"lr": 0.02})])
def test_the_checkpoint_of_another_training_is_ignored_with_a_warning(
    seed: int, params: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Context.Stopped):
        run(QUICK, context(tmp_path, stop_requested=stop_after(10)))
    expected = run(params, context(tmp_path / "elsewhere", seed=seed))
    assert run(params, context(tmp_path, seed=seed)) == expected
    assert "the checkpoint of another training; the task starts from the beginning" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distexp.experiments.training.CHECKPOINT_EVERY_S", 0.0)
    (tmp_path / "file").write_text("a file where the folder should be")
    assert run(QUICK, context(tmp_path / "file" / "folder"))["epochs_run"] == 6
    assert "cannot write the checkpoint" in capsys.readouterr().out


def test_each_epoch_is_reported_with_its_validation(tmp_path: Path) -> None:
    reports: list[tuple[int, int, Mapping[str, float]]] = []
    result = run(QUICK, context(tmp_path, on_report=lambda *report: reports.append(report)))
    assert [(step, total) for step, total, _ in reports] == [(epoch, 6) for epoch in range(1, 7)]
    losses = [metrics["val_loss"] for *_, metrics in reports]
    assert result["val_loss"] == min(losses)
    assert result["best_epoch"] == 1 + losses.index(min(losses))
    assert result["val_acc"] == reports[losses.index(min(losses))][2]["val_acc"]


def test_patience_ends_a_training_that_no_longer_gets_better(tmp_path: Path) -> None:
    params = {"dataset": "wine", "epochs": 200, "lr": 0.1, "patience": 3, "width_factor": 8}
    result = run(params, context(tmp_path))
    assert result["epochs_run"] == int(result["best_epoch"]) + 3 < 200


def test_a_training_that_diverges_at_once_says_what_to_change(tmp_path: Path) -> None:
    params = QUICK | {"optimizer": "sgd", "lr": 1000, "depth": 8, "width_factor": 64}
    expected = r"^epoch 1: val_loss is (nan|inf); is lr 1000 too large\?$"
    with pytest.raises(FloatingPointError, match=expected):
        run(params, context(tmp_path))


def test_noise_replaces_training_labels_alone(tmp_path: Path) -> None:
    clean = {"dataset": "breast_cancer", "epochs": 15}
    result = run(clean | {"label_noise": 1.0}, context(tmp_path))
    assert float(result["train_acc"]) > 0.85  # it learns the wrong class of two
    assert float(result["test_acc"]) < 0.5


def test_a_task_computes_on_the_threads_it_is_given(tmp_path: Path) -> None:
    import torch

    run(QUICK, context(tmp_path / "a", threads=2))
    assert torch.get_num_threads() == 2
    run(QUICK, context(tmp_path / "b"))
    assert torch.get_num_threads() == 1


def test_warm_up_leaves_one_thread_the_data_sets_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from distexp.experiments.classification import warm_up
    from distexp.experiments.data import load_embedded

    monkeypatch.chdir(tmp_path)
    load_embedded.cache_clear()
    warm_up()
    assert torch.get_num_threads() == 1
    assert load_embedded.cache_info().currsize == 3
    assert not torch.cuda.is_initialized()
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif("not has_gpu()", reason="needs a real NVIDIA GPU")
def test_a_gpu_trains_gives_the_same_row_twice_and_resumes(tmp_path: Path) -> None:
    import torch

    params = {"model": "cnn", "epochs": 3, "depth": 2}
    first = run(params, context(tmp_path / "a", device="cuda:0"))
    with pytest.raises(Context.Stopped):
        run(params, context(tmp_path / "b", device="cuda:0", stop_requested=stop_after(40)))
    assert run(params, context(tmp_path / "b", device="cuda:0")) == first
    with pytest.raises(torch.OutOfMemoryError):
        run(
            params | {"model": "mlp", "width_factor": 10_000, "depth": 100},
            context(tmp_path / "c", device="cuda:0"),
        )
