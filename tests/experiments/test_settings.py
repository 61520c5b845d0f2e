"""The parameters of the shipped experiment: what is taken, and every line that a user gets for a mistake."""

import dataclasses
import re
from typing import Any

import pytest

from distexp.experiments.settings import Settings, parse_settings

ALLOWED = {
    "dataset": ("mnist", "one of breast_cancer, digits, wine, openml:NAME"),
    "model": ("resnet", "one of cnn, mlp"),
    "optimizer": ("sgdd", "one of adam, adamw, sgd"),
    "width_factor": (0, "a number above 0 up to 10000"),
    "depth": (1.5, "a whole number from 1 to 1000"),
    "lr": ("0.1", "a number above 0 up to 1000"),
    "weight_decay": (-1, "a number from 0 to 1000"),
    "batch_size": (True, "a whole number from 1 to 10000000"),
    "epochs": (0, "a whole number from 1 to 1000000"),
    "patience": (0, "null or a whole number from 1 to 1000000"),
    "label_noise": (1.5, "a number from 0 to 1"),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_a_bad_value_is_refused_with_what_it_must_be(name: str) -> None:
    value, expected = ALLOWED[name]
    with pytest.raises(ValueError, match=re.escape(f"{name}: must be {expected} (it is {value!r})") + "$"):
        parse_settings({name: value})


@pytest.mark.parametrize("value", [[], {}, None, float("nan"), float("inf"), "", "sgd "])
@pytest.mark.parametrize("name", sorted(set(ALLOWED) - {"patience"}))
def test_a_value_of_any_wrong_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be "):
        parse_settings({name: value})


@pytest.mark.parametrize(
    "dataset", ["openml:", "openml:../up", "openml:a/b", "openml:a\\b", "openml:.hidden"]
)
def test_an_openml_name_that_leaves_the_data_folder_is_refused(dataset: str) -> None:
    with pytest.raises(ValueError, match=r"^dataset: must be "):
        parse_settings({"dataset": dataset})


def test_an_unknown_parameter_is_refused_with_the_known_ones_and_all_problems_at_once() -> None:
    known = ", ".join(field.name for field in dataclasses.fields(Settings))
    with pytest.raises(ValueError, match=r"^learning_rate") as refusal:
        parse_settings({"learning_rate": 0.1, "depth": -1})
    assert str(refusal.value).splitlines() == [
        f"learning_rate: this experiment has no such parameter; it has {known}",
        "depth: must be a whole number from 1 to 1000 (it is -1)",
    ]


def test_a_cnn_for_a_table_is_refused() -> None:
    expected = "model: cnn needs images, such as digits; wine is a table: use mlp"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        parse_settings({"model": "cnn", "dataset": "wine"})


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert parse_settings({"depth": 2.0, "epochs": 1e2, "lr": 1}) == Settings(depth=2, epochs=100, lr=1.0)
