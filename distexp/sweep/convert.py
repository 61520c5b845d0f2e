"""Sweep files of Weights & Biases to ours, with a comment for whatever could not be carried over. Pure.

Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys/
"""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml

from distexp.errors import ConfigError
from distexp.sweep.early_terminate import read_early_terminate
from distexp.sweep.validation import SETTINGS
from distexp.sweep.yaml_loader import Problems, plain, read
from distexp.task import Value

SAMPLES = 40  # for a search whose file does not say how many: W&B takes the number from `wandb agent --count`
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")  # what W&B runs where a file has no `command`
WORDS = {
    "${env}": "",
    "${interpreter}": "python",
    "${args}": "{args}",
    "${args_no_boolean_flags}": "{args:flags}",
    "${args_no_hyphens}": "{overrides}",
    "${args_json_file}": "{run_dir}/params.json",
}
SAME = ("uniform", "int_uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values",
        "normal", "q_normal", "log_normal", "q_log_normal")  # fmt: skip
EXPONENTS = {"log_uniform": "log_uniform_values", "q_log_uniform": "q_log_uniform_values"}
CARRIED = ("program", "command", "method", "parameters", "metric", "name", "run_cap", "early_terminate")
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")


@dataclass
class _Sweep:
    """What has been carried over."""

    is_grid: bool
    fixed: dict[str, Value] = field(default_factory=dict)
    axes: list[tuple[str, Value]] = field(default_factory=list)
    seeds: Value = None
    notes: list[str] = field(default_factory=list)


def convert(text: str, name: str = "sweep.yaml") -> str:
    """Return a sweep file of ours that asks for the same as the W&B sweep in `text`.

    Args:
        name: How messages call the file.

    Raises:
        ConfigError: It is no W&B sweep; each line says what is wrong.
    """
    problems = Problems(name)
    root = read(text, problems)
    if problems.lines:
        raise ConfigError(problems.lines)
    said = None if root is None else plain(root)
    with suppress(yaml.YAMLError, ValueError):  # such as a day that no month has
        said = _as_yaml_1_1(said, yaml.safe_load(text))
    if not isinstance(said, dict) or not isinstance(said.get("parameters"), dict):
        raise ConfigError([f"{name}: is no W&B sweep: that has `method` and a mapping `parameters`"])
    sweep = _Sweep(is_grid=said.get("method") == "grid")
    for key in said.keys() - {*CARRIED}:
        if said[key] is not None:
            sweep.notes.append(f"left out: {key}: {_json(said[key])}")
    sweep.notes.sort()
    _take(said["parameters"], "", sweep)
    return "\n".join(_lines(said, sweep)) + "\n"


def _as_yaml_1_1(ours: Value, theirs: Any) -> Value:
    """Return what our loader reads, but with the plain `yes` and `1_000` that are no texts to W&B."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and len(ours) == len(theirs):
        both = zip(ours.items(), theirs.values(), strict=True)  # in place: `on` is the key True there
        return {name: _as_yaml_1_1(value, other) for (name, value), other in both}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [_as_yaml_1_1(*both) for both in zip(ours, theirs, strict=True)]
    is_other = isinstance(ours, str) and isinstance(theirs, bool | int | float)
    return theirs if is_other else ours


def _take(parameters: Mapping[str, Value], path: str, sweep: _Sweep) -> None:
    for name, said in parameters.items():
        place = f"{path}{name}"
        if not isinstance(said, dict):
            sweep.notes.append(f"left out, no parameter of W&B: {place}: {_json(said)}")
        elif isinstance(said.get("parameters"), dict):
            sweep.fixed[place] = {}
            _take(said["parameters"], f"{place}.", sweep)
        elif place == "seed":
            _take_seed(said, sweep)
        elif place in SETTINGS or place in ("seeds", "phase", "task_id"):
            sweep.notes.append(f"left out, the name has a meaning of its own here: {place}: {_json(said)}")
        elif "value" in said:
            sweep.fixed[place] = said["value"]
        else:
            axis = _axis(place, said, sweep)
            if axis is not None:
                sweep.axes.append((place, axis))


def _take_seed(said: Mapping[str, Value], sweep: _Sweep) -> None:
    seeds = [said["value"]] if "value" in said else said.get("values")
    if isinstance(seeds, list) and all(type(seed) is int for seed in seeds):
        sweep.seeds = seeds
        if not sweep.is_grid and len(seeds) > 1:
            sweep.notes.append("every sample runs with each of the seeds")
    else:
        sweep.notes.append(f"left out: seeds are a list of whole numbers here: seed: {_json(said)}")


def _axis(name: str, said: Mapping[str, Value], sweep: _Sweep) -> Value:
    """Return the axis of a parameter; None, and a note, for what has no like here."""
    kind = said.get("distribution", "")
    if isinstance(values := said.get("values"), list):
        weights = said.get("probabilities")
        return values if weights is None or sweep.is_grid else {"values": values, "probabilities": weights}
    given = {key: value for key, value in said.items() if key != "distribution"}
    if kind in EXPONENTS and all(isinstance(given.get(key), int | float) for key in ("min", "max")):
        for key in ("min", "max"):
            given[key] = float(f"{math.exp(given[key]):.6g}")
        kind = EXPONENTS[kind]
        sweep.notes.append(f"{name}: W&B's {said['distribution']} takes exponents: these are the values")
    if sweep.is_grid:
        return _listed(name, said, sweep)
    if kind and kind not in SAME:
        sweep.notes.append(f"left out, there is no such distribution here: {name}: {_json(said)}")
        return None
    if not kind and not {"min", "max"} <= given.keys():
        sweep.notes.append(f"left out, not understood: {name}: {_json(said)}")
        return None
    return {"distribution": kind, **given} if kind else given


def _listed(name: str, said: Mapping[str, Value], sweep: _Sweep) -> Value:
    low, high, step = (said.get(key, missing) for key, missing in (("min", None), ("max", None), ("q", 1)))
    is_stepped = said.get("distribution", "int_uniform") in ("int_uniform", "q_uniform")
    if is_stepped and all(type(each) in (int, float) for each in (low, high, step)) and step > 0:
        end = high + (step if isinstance(step, int) else step / 2)
        return {"range": [low, end, step] if step != 1 else [low, end]}
    sweep.notes.append(f"left out, a grid has no values of it: {name}: {_json(said)}")
    return None


def _lines(said: Mapping[str, Value], sweep: _Sweep) -> list[str]:
    if not sweep.axes:
        sweep.notes.append("no parameter varies")
        flat = next((name for name in sweep.fixed if "." not in name and sweep.fixed[name] != {}), None)
        sweep.axes.append((flat, [sweep.fixed.pop(flat)]) if flat else ("task", [1]))
    phase = re.sub(r"[^\w.-]+", "_", str(said.get("name") or "sweep")).strip("_") or "sweep"
    lines = [f"command: {_json(_command(said, sweep))}", 'output_dir: "./results_{phase}"']
    lines += [f"{_name(name)}: {_json(value)}" for name, value in sweep.fixed.items()]
    found = ["defaults:", *(f"  {line}" for line in lines)]
    if sweep.seeds is not None:
        found.append(f"seeds: {_json(sweep.seeds)}")
    if isinstance(metric := said.get("metric"), dict) and isinstance(metric.get("name"), str):
        goal = metric.get("goal", "minimize")  # as W&B takes it where a file does not say
        found.append(f"metric: {{name: {_json(metric['name'])}, goal: {goal}}}")
    found.append(f"{_name(phase)}:")
    found += _early_terminate(said, sweep)
    if not sweep.is_grid:
        found.append(f"  search: {{method: {_method(said, sweep)}, samples: {_samples(said, sweep)}}}")
    found.append("  combinations:")
    found += [f"    - {_name(name)}: {_json(axis)}" for name, axis in sweep.axes]
    return [*(f"# {note}" for note in sweep.notes), *found]


def _early_terminate(said: Mapping[str, Value], sweep: _Sweep) -> list[str]:
    """Return the line for it; none, and a note, where it would be refused."""
    if "early_terminate" not in said:
        return []
    problems, text = Problems(""), f"early_terminate: {_json(said['early_terminate'])}"
    root, metric = read(text, problems), said.get("metric")
    found = None if root is None else read_early_terminate(root.value["early_terminate"], problems)
    if found is None or not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        sweep.notes.append(f"left out, {'it needs a metric' if found else 'not understood'}: {text}")
        return []
    sweep.notes.append("early_terminate: looks at steps of `context.report`, or of JSON lines with a `step`")
    limit = f", max_iter: {found.max_iter}" if found.max_iter else ""
    return [f"  early_terminate: {{type: asha, min_iter: {found.min_iter}, eta: {found.eta}{limit}}}"]


def _method(said: Mapping[str, Value], sweep: _Sweep) -> str:
    method, metric = said.get("method"), said.get("metric")
    if method == "bayes" and isinstance(metric, dict) and isinstance(metric.get("name"), str):
        sweep.notes.append(
            "method: bayes: TPE here, by Optuna (pip install optuna); W&B fits a Gaussian process"
        )
        return "tpe"
    if method == "bayes":
        sweep.notes.append("method: bayes: drawn at random here, as no metric is named")
    elif method != "random":
        sweep.notes.append(f"method: {method}: drawn at random here")
    return "random"


def _samples(said: Mapping[str, Value], sweep: _Sweep) -> int:
    if type(count := said.get("run_cap")) is int and count > 0:
        return count
    sweep.notes.append(f"samples: as many as `wandb agent --count` says; {SAMPLES} here")
    return SAMPLES


def _command(said: Mapping[str, Value], sweep: _Sweep) -> str:
    words = said.get("command", COMMAND)
    if isinstance(words, str):
        words = words.split()
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        sweep.notes.append(f"left out, not understood: command: {_json(said['command'])}")
        words = COMMAND
    if "program" not in said and "${program}" in words:
        sweep.notes.append("no program is named: replace train.py")
    found = []
    for word in words:
        if word == "${program}":
            found.append(shlex.quote(str(said.get("program", "train.py"))))
        elif word in WORDS:
            found += [WORDS[word]] * bool(WORDS[word])
        else:
            if "${" in word:
                sweep.notes.append(f"not known in a command: {word}")
            found.append(shlex.quote(word.replace("{", "{{").replace("}", "}}")))
    return " ".join(found)


def _name(name: str) -> str:
    return (
        name if _PLAIN_NAME.fullmatch(name) and name.lower() not in ("null", "true", "false") else _json(name)
    )


def _json(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
