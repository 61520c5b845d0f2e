"""The callbacks for Lightning and Transformers, with the real packages: report, stop, resume."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distexp.context import Context
from distexp.errors import TaskStopped
from tests.live_manager import Folder
from tests.live_worker import worker_process

Reports = list[tuple[Any, Any, dict[str, Any]]]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"needs the package {package}"
    )


def a_context(folder: Path, reports: Reports, stop_at: float | None) -> Context:
    """A context that asks to stop once a report has come to this step."""

    def take(step: Any, total: Any, metrics: Mapping[str, Any]) -> None:
        reports.append((step, total, dict(metrics)))

    return Context(
        seed=1,
        checkpoint_dir=folder / "checkpoint",
        on_report=take,
        stop_requested=lambda: stop_at is not None and any(step >= stop_at for step, _, _ in reports),
    )


def lightning_run(context: Context, lr: float = 0.1) -> dict[str, float]:
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from distexp.lightning import DistexpCallback

    class Line(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, at: int) -> Any:
            return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def validation_step(self, batch: Any, at: int) -> None:
            self.log("val_loss", self.training_step(batch, at))
            self.log_dict({"step": self.current_epoch + 1.0, "total": 4.0})  # the x axis of its loggers

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=lr)

    torch.manual_seed(1)
    x = torch.arange(8.0).reshape(8, 1) / 8
    loader = DataLoader(TensorDataset(x, 2 * x), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=4,
        callbacks=[DistexpCallback(context)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(), loader, loader, ckpt_path=DistexpCallback.checkpoint(context))
    return {"val_loss": float(trainer.callback_metrics["val_loss"])}


def transformers_run(context: Context, lr: float = 0.01) -> dict[str, float]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from distexp.transformers import DistexpCallback

    torch.manual_seed(1)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=10, **size))
    rows = [{"input_ids": torch.tensor([at, 1]), "labels": torch.tensor(at % 2)} for at in range(8)]
    arguments = TrainingArguments(
        str(context.checkpoint_dir),
        eval_strategy="epoch",
        save_strategy="epoch",
        num_train_epochs=4,
        learning_rate=lr,
        per_device_train_batch_size=4,
        logging_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )

    class LoggingTrainer(Trainer):  # type: ignore[misc]  # untyped where it is not installed
        def log(self, logs: dict[str, float], *more: Any, **named: Any) -> None:
            super().log(logs | {"step": 7.0, "total": 9.0}, *more, **named)

    trainer = LoggingTrainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[DistexpCallback(context)]
    )
    trainer.train(resume_from_checkpoint=DistexpCallback.checkpoint(context))
    return {"eval_loss": float(trainer.evaluate()["eval_loss"])}


def of_a_sweep(params: Mapping[str, Any], context: Context) -> dict[str, float]:
    """The experiment of a sweep over learning rates."""
    run = {"lightning_run": lightning_run, "transformers_run": transformers_run}[params["run"]]
    return run(context, params["lr"])


SWEEP = """
defaults: {{experiment: "tests.test_callbacks:of_a_sweep", output_dir: "./results_exp1", run: {run}}}
metric: {{name: {metric}, goal: minimize}}
early_terminate: {{type: asha, max_iter: 4}}
exp1: {{combinations: [{{lr: [0.05, 0.0]}}]}}
"""
RUNS = [
    pytest.param(lightning_run, "val_loss", marks=needs("lightning"), id="lightning"),
    pytest.param(transformers_run, "eval_loss", marks=needs("transformers"), id="transformers"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("run", "metric"), RUNS)
def test_it_reports_each_epoch_leaves_when_told_and_goes_on_from_there(
    tmp_path: Path, run: Any, metric: str
) -> None:
    first: Reports = []
    with pytest.raises(TaskStopped):
        run(a_context(tmp_path, first, stop_at=2))
    told = [(step, total) for step, total, metrics in first if metric in metrics]
    assert told == [(1, 4), (2, 4)]
    assert not any({"step", "total", "epoch"} & metrics.keys() for _, _, metrics in first)
    second: Reports = []
    result = run(a_context(tmp_path, second, stop_at=None))
    told = [(step, total) for step, total, metrics in second if metric in metrics]
    assert told[:2] == [(3, 4), (4, 4)]
    assert result[metric] >= 0


@pytest.mark.parametrize(("run", "metric"), RUNS)
def test_a_training_that_learns_nothing_is_stopped_at_its_first_rung(
    tmp_path: Path, run: Any, metric: str
) -> None:
    folder = Folder(tmp_path)
    folder.configure(
        None, SWEEP.format(run=run.__name__, metric=metric).replace("{", "{{").replace("}", "}}")
    )
    with folder.serving() as manager, worker_process(tmp_path) as worker:
        assert worker.code() == 0, worker.output()
        assert manager.dispatcher.status().pruned == 1
    good, bad = folder.rows()
    assert (good["lr"], good["stopped_at"], bad["lr"]) == ("0.05", "", "0.0")
    assert float(bad["stopped_at"]) == 1
    assert float(good[metric]) < float(bad[metric])
