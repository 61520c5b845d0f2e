"""Parameters of the classification experiment -> checked `Settings`. Pure: imports no torch."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

TABLES = ("breast_cancer", "wine")
IMAGE_SETS = ("digits",)
OPENML = "openml:"  # prefix of any data set of openml.org, as in openml:mnist_784

_OPENML_NAME = re.compile(OPENML + r"\w[\w.()+-]*")  # no slash: the name becomes that of a file
_Check = Callable[[Any], Any]  # returns the value in its own type, or raises ValueError: what it must be


@dataclass(frozen=True)
class Settings:
    """One training. The fields are the parameters that the experiment knows, with their defaults."""

    dataset: str = "digits"
    model: str = "mlp"
    width_factor: float = 1.0  # times 4 hidden units (mlp) or channels (cnn)
    depth: int = 1  # hidden layers (mlp) or convolutions (cnn)
    optimizer: str = "adam"
    lr: float = 1e-2
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 20
    patience: int | None = None  # stop after so many epochs without a better val_loss; None: never
    label_noise: float = 0.0  # share of the training labels that are replaced by another class


def parse_settings(params: Mapping[str, Any]) -> Settings:
    """Return the settings that `params` asks for; what it leaves out has its default.

    Raises:
        ValueError: A name that this experiment does not know, or a value that it cannot use. The message
            holds one line per problem.
    """
    problems = []
    values = {}
    known = [field.name for field in fields(Settings)]
    for name, value in params.items():
        if name not in known:
            problems.append(f"{name}: this experiment has no such parameter; it has {', '.join(known)}")
            continue
        try:
            values[name] = _CHECKS[name](value)
        except ValueError as refusal:
            problems.append(f"{name}: must be {refusal} (it is {value!r})")
    settings = Settings(**values) if not problems else Settings()
    if settings.model == "cnn" and settings.dataset in TABLES:
        images = ", ".join(IMAGE_SETS)
        problems.append(f"model: cnn needs images, such as {images}; {settings.dataset} is a table: use mlp")
    if problems:
        raise ValueError("\n".join(problems))
    return settings


def _one_of(*names: str) -> _Check:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(sorted(names))}")
        return str(value)

    return check


def _dataset(value: Any) -> str:
    known = sorted(TABLES + IMAGE_SETS)
    if value not in known and not (isinstance(value, str) and _OPENML_NAME.fullmatch(value)):
        raise ValueError(f"one of {', '.join(known)}, {OPENML}NAME")
    return str(value)


def _whole(low: int, high: int) -> _Check:
    def check(value: Any) -> int:
        if not _is_number(value) or value != int(value) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return check


def _number(low: float, high: float, *, positive: bool = False) -> _Check:
    def check(value: Any) -> float:
        if not _is_number(value) or not low <= value <= high or (positive and value == 0):
            raise ValueError(
                f"a number {'above' if positive else 'from'} {low:g} {'up ' * positive}to {high:g}"
            )
        return float(value)

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _patience(value: Any) -> int | None:
    try:
        return None if value is None else int(_whole(1, 1_000_000)(value))
    except ValueError as refusal:
        raise ValueError(f"null or {refusal}") from None


_CHECKS: dict[str, _Check] = {
    "dataset": _dataset,
    "model": _one_of("mlp", "cnn"),
    "width_factor": _number(0, 10_000, positive=True),
    "depth": _whole(1, 1000),
    "optimizer": _one_of("sgd", "adam", "adamw"),
    "lr": _number(0, 1000, positive=True),
    "weight_decay": _number(0, 1000),
    "batch_size": _whole(1, 10_000_000),
    "epochs": _whole(1, 1_000_000),
    "patience": _patience,
    "label_noise": _number(0, 1),
}
