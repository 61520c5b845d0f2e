import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from distexp.experiments.data import Dataset, load, load_embedded, replace_labels, split

SHAPES = {"digits": (1797, 1, 8, 8), "wine": (178, 13), "breast_cancer": (569, 30)}


def cache_openml(folder: Path, name: str, columns: dict[str, str], rows: list[str]) -> None:
    """Lay down what `fetch_openml` keeps of a data set, so that it finds all of it without a network."""
    *_, target = columns
    arff = f"@relation {name}\n" + "".join(f"@attribute {c} {kind}\n" for c, kind in columns.items())
    content = (arff + "@data\n" + "\n".join(rows) + "\n").encode()
    description = {
        "id": "1", "name": name, "description": "made up", "version": "1",
        "format": "ARFF", "status": "active", "file_id": "2",
        "default_target_attribute": target, "md5_checksum": hashlib.md5(content).hexdigest(),
        "url": f"https://api.openml.org/data/v1/download/2/{name}.arff",
    }  # fmt: skip
    kinds = {column: "nominal" if kind.startswith("{") else "numeric" for column, kind in columns.items()}
    features = [
        {"index": str(i), "name": c, "data_type": kinds[c], "is_target": str(c == target).lower(),
         "is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
        for i, c in enumerate(columns)
    ]  # fmt: skip
    found = [{"did": 1, "name": name, "version": 1, "status": "active", "format": "ARFF"}]
    api = "api/v1/json/data"
    files: dict[str, bytes] = {
        f"{api}/list/data_name/{name}/limit/2/status/active/": json.dumps(
            {"data": {"dataset": found}}
        ).encode(),
        f"{api}/1": json.dumps({"data_set_description": description}).encode(),
        f"{api}/features/1": json.dumps({"data_features": {"feature": features}}).encode(),
        f"{api}/qualities/1": json.dumps(
            {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": str(len(rows))}]}}
        ).encode(),
        f"data/v1/download/2/{name}.arff": content,
    }
    for path, data in files.items():
        file = folder / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(data))


@pytest.mark.parametrize("name", SHAPES)
def test_an_embedded_set_is_whole(name: str) -> None:
    dataset = load(name)
    assert dataset.inputs.shape == SHAPES[name]
    assert dataset.inputs.dtype == np.float32
    assert dataset.labels.dtype == np.int64
    assert set(dataset.labels) == set(range(dataset.classes))
    assert dataset.is_images == (name == "digits")


@pytest.mark.parametrize("name", SHAPES)
def test_an_embedded_set_is_what_scikit_learn_loads(name: str) -> None:
    loaded = getattr(datasets, f"load_{name}")()
    dataset = load(name)
    assert np.array_equal(dataset.inputs.reshape(loaded.data.shape), loaded.data.astype(np.float32))
    assert np.array_equal(dataset.labels, loaded.target)
    assert dataset.classes == len(loaded.target_names)


@pytest.mark.parametrize("name", SHAPES)
def test_a_split_uses_every_row_once_and_each_class_in_its_share(name: str) -> None:
    dataset = load_embedded(name)
    marked = Dataset(
        np.arange(len(dataset.labels), dtype=np.float32)[:, None], dataset.labels, dataset.classes
    )
    parts = split(marked, np.random.default_rng(1))
    rows = np.concatenate([part.inputs[:, 0] for part in (parts.train, parts.val, parts.test)])
    assert len(np.unique(rows)) == len(dataset.labels)
    for label, count in enumerate(np.bincount(dataset.labels)):
        assert abs((parts.test.labels == label).sum() - count / 5) < 1
        assert abs((parts.val.labels == label).sum() - count / 5) < 1


def test_another_seed_gives_another_split_and_the_same_seed_the_same() -> None:
    first, again, other = (split(load("wine"), np.random.default_rng(seed)).test.inputs for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_table_columns_are_standardised_each_and_images_as_a_whole() -> None:
    table = split(load("wine"), np.random.default_rng(1)).train.inputs
    assert np.allclose(table.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(table.std(axis=0), 1, atol=1e-5)
    images = split(load("digits"), np.random.default_rng(1)).train.inputs
    assert np.isclose(images.mean(), 0, atol=1e-5)
    assert images[:, 0, 0, 0].std() < 0.1  # the corner is nearly always blank, and stays so


def test_missing_values_and_constant_columns_become_the_mean() -> None:
    inputs = np.tile(np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan]], dtype=np.float32), (10, 1))
    inputs[3, 0] = np.nan
    parts = split(Dataset(inputs, np.arange(20) % 2, 2), np.random.default_rng(0))
    for part in (parts.train, parts.val, parts.test):
        assert np.isfinite(part.inputs).all()
        assert (part.inputs[:, 1:] == 0).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1.0])
def test_exactly_the_share_of_labels_is_replaced_by_another_class(share: float) -> None:
    labels = np.arange(1000) % 4
    noisy = replace_labels(labels, 4, share, np.random.default_rng(5))
    assert (noisy != labels).sum() == round(share * 1000)
    assert set(noisy) == {0, 1, 2, 3}


def test_a_larger_share_replaces_the_same_labels_and_more() -> None:
    labels = np.arange(1000) % 4
    few, many = (replace_labels(labels, 4, share, np.random.default_rng(5)) for share in (0.1, 0.3))
    changed = few != labels
    assert (few[changed] == many[changed]).all()


def test_an_openml_set_is_read_from_its_cache_and_kept_as_one_file(tmp_path: Path) -> None:
    columns = {"length": "NUMERIC", "colour": "{red,green}", "kind": "{ham,spam}"}
    rows = [
        f"{i if i else '?'},{'red' if i % 2 else 'green'},{'spam' if i % 3 else 'ham'}" for i in range(30)
    ]
    cache_openml(tmp_path, "small", columns, rows)
    first = load("openml:small", tmp_path)
    assert first.inputs.shape == (30, 3)  # length, colour is red, colour is green
    assert np.isnan(first.inputs[0, 0])
    assert first.inputs[1:, 0].tolist() == list(range(1, 30))
    assert first.inputs[:, 1].tolist() == [i % 2 for i in range(30)]
    assert first.labels.tolist() == [int(i % 3 > 0) for i in range(30)]
    for file in tmp_path.rglob("*.gz"):
        file.unlink()
    again = load("openml:small", tmp_path)
    assert np.array_equal(first.inputs, again.inputs, equal_nan=True)
    assert np.array_equal(first.labels, again.labels)
    assert not list(tmp_path.glob("*.tmp"))


def test_an_openml_set_of_pixels_is_read_as_images(tmp_path: Path) -> None:
    columns = {f"pixel{i}": "NUMERIC" for i in range(64)} | {"class": "{0,1}"}
    rows = [",".join(str((i * j) % 256) for j in range(64)) + f",{i % 2}" for i in range(20)]
    cache_openml(tmp_path, "squares", columns, rows)
    dataset = load("openml:squares", tmp_path)
    assert dataset.inputs.shape == (20, 1, 8, 8)
    assert dataset.inputs[3, 0, 1, 2] == 30  # row 1 of 8, column 2: the eleventh pixel


def test_an_openml_set_for_regression_is_refused(tmp_path: Path) -> None:
    cache_openml(
        tmp_path, "prices", {"rooms": "NUMERIC", "price": "NUMERIC"}, [f"{i},{i * 10}" for i in range(8)]
    )
    expected = (
        "openml:prices: needs at least 2 classes of 5 rows (it has 8 classes, the smallest with 1 rows)"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        load("openml:prices", tmp_path)
