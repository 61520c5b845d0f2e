"""Curves for TensorBoard, by torch's own writer; imported only where TensorBoard is installed."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def open_board(folder: Path, first_step: int) -> SummaryWriter:
    """Return a writer of event files in `folder`; earlier attempts' steps from `first_step` on are void."""
    return SummaryWriter(str(folder), purge_step=first_step)
