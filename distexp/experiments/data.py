"""Data sets by name, and their split into training, validation and test parts. NumPy only, no torch.

Data sets of openml.org are fetched once and kept under `data/` as one file each.
"""

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distexp.experiments.settings import IMAGE_SETS, OPENML, TABLES
from distexp.system import locks
from distexp.system.long_work import LongWork
from distexp.system.network_drives import lock_of

DATA_DIR = Path("data")
MIN_PER_CLASS = 5  # fewer, and the split below leaves a part without the class
MIN_IMAGE_SIDE = 8  # smaller squares are tables by chance
PIXEL_MAX = 255
_EMBEDDED = {"breast_cancer": "breast_cancer.csv", "digits": "digits.csv.gz", "wine": "wine_data.csv"}

Inputs = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Shapes: inputs (N, F) or, for images, (N, C, H, W), float32, may hold NaN; labels (N,), int64."""

    inputs: Inputs
    labels: Labels  # 0 ... classes - 1
    classes: int

    @property
    def is_images(self) -> bool:
        """Return whether the inputs have height and width."""
        return self.inputs.ndim == 4


@dataclass(frozen=True)
class Part:
    """One part of a data set, inputs standardised; shapes and types as in `Dataset`, without NaN."""

    inputs: Inputs
    labels: Labels


@dataclass(frozen=True)
class Split:
    """60 % training, 20 % validation, 20 % test, each class in these shares."""

    train: Part
    val: Part
    test: Part


def load(name: str, data_dir: Path = DATA_DIR) -> Dataset:
    """Return the data set of that name: digits, wine, breast_cancer, or openml:NAME.

    Safe to call from many processes at once: the first fetches from openml.org, the others wait for its file.

    Raises:
        ValueError: The data set is not one for classification. The message is one line.
        OSError: openml.org cannot be reached and `data_dir` does not hold the set yet.
    """
    if name in TABLES + IMAGE_SETS:
        return load_embedded(name)
    path = data_dir / f"{name.removeprefix(OPENML)}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with LongWork() as work:
            work.begin(f"Waiting for another process that fetches {name}")
            with locks.acquire(lock_of(path), math.inf):
                if not path.exists():
                    work.begin(f"Fetching {name} from openml.org")
                    _store(_fetch(name, data_dir), path)
    with np.load(path, allow_pickle=False) as stored:
        return Dataset(stored["inputs"], stored["labels"], int(stored["classes"]))


@lru_cache
def load_embedded(name: str) -> Dataset:
    """Return a data set that scikit-learn brings along; the arrays are shared and read-only.

    From its files, the label in the last column: to import its loaders takes as long as to import torch.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    file = distribution("scikit-learn").locate_file(f"sklearn/datasets/data/{_EMBEDDED[name]}")
    table = np.loadtxt(str(file), delimiter=",", skiprows=int(name in TABLES))  # tables have headers
    shape = (-1, 1, 8, 8) if name in IMAGE_SETS else (len(table), -1)
    inputs, labels = table[:, :-1].astype(np.float32).reshape(shape), table[:, -1].astype(np.int64)
    inputs.setflags(write=False)
    labels.setflags(write=False)
    return Dataset(inputs, labels, len(np.unique(labels)))


def split(dataset: Dataset, rng: np.random.Generator) -> Split:
    """Return a random split, standardised with mean and deviation of the training part.

    Images share one mean and deviation, table columns have their own. A missing value becomes the mean.
    """
    order = rng.permutation(len(dataset.labels))
    by_class = order[np.argsort(dataset.labels[order], kind="stable")]
    place = np.arange(len(order)) % 5  # 0 is for test, 1 for validation, in every class
    rows = {"train": np.sort(by_class[place > 1]), "val": by_class[place == 1], "test": by_class[place == 0]}
    known = np.ma.masked_invalid(dataset.inputs[rows["train"]])
    axis = None if dataset.is_images else 0
    mean = np.ma.filled(known.mean(axis=axis, dtype=np.float64), 0.0)
    deviation = np.ma.filled(known.std(axis=axis, dtype=np.float64), 1.0)
    deviation = np.where(deviation > 0, deviation, 1.0)  # a constant column says nothing

    def part(name: str) -> Part:
        inputs = dataset.inputs[rows[name]]
        scaled = np.where(np.isfinite(inputs), (inputs - mean) / deviation, 0.0)
        return Part(scaled.astype(np.float32), dataset.labels[rows[name]])

    return Split(part("train"), part("val"), part("test"))


def replace_labels(labels: Labels, classes: int, share: float, rng: np.random.Generator) -> Labels:
    """Return a copy in which `share` of the labels is replaced by another class, drawn uniformly.

    From the same `rng` state, a larger share replaces the same labels and more.
    """
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    shift = rng.integers(1, classes, size=len(labels))
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + shift[chosen]) % classes
    return noisy


def _fetch(name: str, data_dir: Path) -> Dataset:
    """Return the set as openml.org has it.

    By scikit-learn's own parser, slow but once a set: that of pandas 3 fails on classes that are numbers.
    """
    from sklearn.datasets import fetch_openml  # slow to import, and seldom needed

    bunch = fetch_openml(
        name=name.removeprefix(OPENML), data_home=str(data_dir), as_frame=False, parser="liac-arff"
    )
    if bunch.target is None or bunch.target.ndim != 1:
        raise ValueError(f"{name}: has no single target column; choose a data set for classification")
    labelled = np.array([_is_known(answer) for answer in bunch.target], dtype=bool)
    names, labels, counts = np.unique(
        bunch.target[labelled].astype(str), return_inverse=True, return_counts=True
    )
    if len(names) < 2 or counts.min() < MIN_PER_CLASS:
        has = f"{len(names)} classes, the smallest with {min(counts, default=0)} rows"
        raise ValueError(f"{name}: needs at least 2 classes of {MIN_PER_CLASS} rows (it has {has})")
    columns = bunch.data.toarray() if hasattr(bunch.data, "toarray") else bunch.data  # sparse or not
    words = [len(bunch.categories.get(feature, ())) for feature in bunch.feature_names]
    inputs = _one_hot(columns[labelled].astype(np.float32), words)
    return Dataset(_as_images(inputs), labels.astype(np.int64), len(names))


def _is_known(answer: object) -> bool:
    return answer is not None and not (isinstance(answer, float) and math.isnan(answer))


def _one_hot(columns: Inputs, words: Sequence[int]) -> Inputs:
    """Return the columns with each column of word numbers replaced by one column per word.

    Args:
        words: How many words each column knows; 0 for a column of numbers.
    """
    if not any(words):
        return columns
    parts = [
        (columns[:, [i]] == np.arange(known)).astype(np.float32) if known else columns[:, [i]]
        for i, known in enumerate(words)
    ]
    return np.concatenate(parts, axis=1)


def _as_images(columns: Inputs) -> Inputs:
    """Return (N, F) as it is, or as (N, C, S, S) where the columns are the pixels of grey or RGB squares."""
    features = columns.shape[1]
    pixels = bool(np.all((columns >= 0) & (columns <= PIXEL_MAX) & (columns == np.floor(columns))))
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if pixels and side >= MIN_IMAGE_SIDE and channels * side * side == features:
            return columns.reshape(-1, channels, side, side)
    return columns


def _store(dataset: Dataset, path: Path) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, inputs=dataset.inputs, labels=dataset.labels, classes=np.int64(dataset.classes))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
