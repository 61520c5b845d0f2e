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
from distexp.sweep.axes import ITEM_NAMES
from distexp.sweep.command_line import REST_NAMES
from distexp.sweep.config import NO_PHASES, parse_config
from distexp.sweep.early_terminate import read_early_terminate
from distexp.sweep.options import GOALS
from distexp.sweep.validation import COLUMNS, SETTINGS
from distexp.sweep.yaml_loader import Problems, plain, read
from distexp.task import Value, canonical
from distexp.text import one_line

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
ARGUMENTS = tuple(word for word in WORDS if word.startswith("${args"))
RESERVED = (*SETTINGS, *COLUMNS, *REST_NAMES, "seeds")  # of parameters, in what `convert` writes
_UNSEEN = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")  # YAML folds or refuses what JSON holds as it is
CARRIED = ("program", "command", "method", "parameters", "metric", "name", "run_cap", "early_terminate")
_SAMPLES_THERE = re.compile(r"write samples: (\d+)$")  # in what our loader says to too many
_LINE = re.compile(r" \(line \d+\)")  # where another thing stands, in what our loader says
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
        ConfigError: It is no W&B sweep, or asks for what our loader refuses; each line says what is wrong.
    """
    problems = Problems(name)
    root = read(text, problems)
    if problems.lines:
        raise ConfigError(problems.lines)
    said = None if root is None else plain(root)
    with suppress(yaml.YAMLError, ValueError):  # such as a day that no month has
        said = _as_yaml_1_1(said, yaml.safe_load(text))
    if not isinstance(said, dict) or not isinstance(said.get("parameters"), dict):
        others = "docs/sweeps.md tells what those of other tools are here"
        raise ConfigError(
            [f"{name}: is no W&B sweep: that has `method` and a mapping `parameters`; {others}"]
        )
    sweep = _Sweep(is_grid=said.get("method") == "grid")
    for key in said.keys() - {*CARRIED}:
        if said[key] is not None:
            sweep.notes.append(f"left out: {key}: {_json(said[key])}")
    sweep.notes.sort()
    _take(said["parameters"], "", sweep)
    found = "\n".join(_lines(said, sweep)) + "\n"
    if refused := [line for line in _refused(found) if "pip install optuna" not in line]:  # a note says that
        raise ConfigError([f"{name}: what it asks for is refused here: {line}" for line in refused])
    return found


def _refused(text: str) -> Sequence[str]:
    """Return what our loader says against a sweep file, without its name and line: nobody has seen it."""
    try:
        parse_config(text, "")
    except ConfigError as error:
        return [_LINE.sub("", line.split(": ", 1)[-1]) for line in error.problems]
    return ()


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
        elif place == "seed":
            _take_seed(said, sweep)
        elif _is_reserved(place, said):
            other = f"call it my_{place}, say, and write --{place}={{my_{place}}} in the command"
            sweep.notes.append(f"left out, the name has a meaning here: {other}: {place}: {_json(said)}")
        elif isinstance(said.get("parameters"), dict):
            sweep.fixed[place] = {}
            _take(said["parameters"], f"{place}.", sweep)
        elif "value" in said:
            fixed = f"{{{_name(place)}: {_json(said['value'])}}}"
            if _is_accepted(place, said, f"defaults: {fixed}, combinations: [{{_: [1]}}]", sweep):
                sweep.fixed[place] = said["value"]
        elif (axis := _axis(place, said, sweep)) is not None:
            search = "" if sweep.is_grid else "search: {samples: 1}, "
            text = f"{search}combinations: [{{{_name(place)}: {_json(axis)}}}]"
            if _is_accepted(place, said, text, sweep):
                sweep.axes.append((place, axis))
        if isinstance(said, dict):
            _note_unread(place, said, sweep)


def _is_reserved(place: str, said: Mapping[str, Value]) -> bool:
    if "value" in said or "parameters" in said:
        return place in RESERVED or (place == "python" and isinstance(said.get("value"), str))
    return place in (*RESERVED, *ITEM_NAMES)


def _note_unread(place: str, said: Mapping[str, Value], sweep: _Sweep) -> None:
    """Note what a parameter says beside what decides."""
    decides = next((key for key in ("parameters", "value", "values") if key in said), None)
    heeded = (decides, "distribution", "probabilities" if decides == "values" and not sweep.is_grid else "")
    unread = [key for key in said if decides and key not in heeded]
    sweep.notes += [f"left out: {place}.{key}: {_json(said[key])}" for key in unread]


def _is_accepted(place: str, said: Value, phase: str, sweep: _Sweep) -> bool:
    """Return whether our loader takes a phase that is nothing but this parameter; if not, that is noted."""
    refused = _refused(f"p: {{{phase}}}")
    if refused:
        why = refused[0].split(": ", 1)[-1]
        sweep.notes.append(f"left out ({why}): {place}: {_json(said)}")
    return not refused


def _take_seed(said: Mapping[str, Value], sweep: _Sweep) -> None:
    seeds = [said["value"]] if "value" in said else said.get("values")
    if isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds):
        sweep.seeds = _distinct("seed", seeds, sweep)
        if not sweep.is_grid and len(sweep.seeds) > 1:
            sweep.notes.append("every sample runs with each of the seeds")
    else:
        sweep.notes.append(f"left out: seeds are a list of whole numbers here: seed: {_json(said)}")


def _distinct(name: str, values: Sequence[Value], sweep: _Sweep) -> list[Value]:
    """Return each value once, and note the others."""
    found: dict[str, Value] = {}
    for value in values:
        if canonical(value) in found:
            sweep.notes.append(f"left out, it stands there twice: {name}: {_json(value)}")
        found.setdefault(canonical(value), value)
    return [*found.values()]


def _axis(name: str, said: Mapping[str, Value], sweep: _Sweep) -> Value:
    """Return the axis of a parameter; None, and a note, for what has no like here."""
    kind = said.get("distribution", "")
    if isinstance(values := said.get("values"), list):
        weights = said.get("probabilities")
        if weights is not None and not sweep.is_grid:
            return {"values": values, "probabilities": weights}
        return _distinct(name, values, sweep)
    given = {key: value for key, value in said.items() if key != "distribution"}
    if kind in EXPONENTS and all(isinstance(given.get(key), int | float) for key in ("min", "max")):
        try:
            given |= {key: float(f"{math.exp(given[key]):.6g}") for key in ("min", "max")}
        except (OverflowError, ValueError):
            sweep.notes.append(f"left out, no float holds numbers that large: {name}: {_json(said)}")
            return None
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
    if not sweep.axes and sweep.is_grid and sweep.seeds and not sweep.fixed:
        sweep.axes, sweep.seeds = [("seed", [*sweep.seeds])], None
    if not sweep.axes:
        sweep.notes.append("no parameter varies")
        flat = next(
            (n for n, value in sweep.fixed.items() if "." not in n and value != {} and n not in ITEM_NAMES),
            None,
        )
        sweep.axes.append((flat, [sweep.fixed.pop(flat)]) if flat else ("task", [1]))
    phase = re.sub(r"[^\w.-]+", "_", str(said.get("name") or "sweep")).strip("_") or "sweep"
    if phase in NO_PHASES:
        sweep.notes.append(f"name: {phase}: has a meaning of its own here: the phase is called sweep_{phase}")
        phase = f"sweep_{phase}"
    lines = [f"command: {_json(_command(said, sweep))}", 'output_dir: "./results_{phase}"']
    lines += [f"{_name(name)}: {_json(value)}" for name, value in sweep.fixed.items()]
    found = ["defaults:", *(f"  {line}" for line in lines)]
    if sweep.seeds is not None:
        found.append(f"seeds: {_json(sweep.seeds)}")
    found += _metric(said, sweep)
    found.append(f"{_name(phase)}:")
    found += _early_terminate(said, sweep)
    if not sweep.is_grid:
        method = _method(said, sweep)
        found.append(f"  search: {{method: {method}, samples: {_samples(said, method, phase, sweep)}}}")
    elif "run_cap" in said:
        sweep.notes.append(f"left out, a grid runs whole: run_cap: {_json(said['run_cap'])}")
    found.append("  combinations:")
    found += [f"    - {_name(name)}: {_json(axis)}" for name, axis in sweep.axes]
    return [*(f"# {one_line(note)}" for note in sweep.notes), *found]


def _metric_name(said: Mapping[str, Value]) -> str | None:
    metric = said.get("metric")
    found = metric.get("name") if isinstance(metric, dict) else None
    return found if isinstance(found, str) else None


def _metric(said: Mapping[str, Value], sweep: _Sweep) -> list[str]:
    """Return the line for it; none, and a note, where W&B would know none either."""
    metric, name = said.get("metric"), _metric_name(said)
    if name is None or not isinstance(metric, dict):
        if metric is not None:
            sweep.notes.append(f"left out, it names none: metric: {_json(metric)}")
        return []
    goal = metric.get("goal", "minimize")  # as W&B takes it where a file does not say
    if goal not in GOALS:
        sweep.notes.append(f"left out, not understood: metric.goal: {_json(goal)}")
        goal = "minimize"
    others = (key for key in metric if key not in ("name", "goal"))
    sweep.notes += [f"left out: metric.{key}: {_json(metric[key])}" for key in others]
    return [f"metric: {{name: {_json(name)}, goal: {goal}}}"]


def _early_terminate(said: Mapping[str, Value], sweep: _Sweep) -> list[str]:
    """Return the line for it; none, and a note, where it would be refused."""
    if "early_terminate" not in said:
        return []
    problems, text = Problems(""), f"early_terminate: {_json(said['early_terminate'])}"
    root = read(text, problems)
    found = None if root is None else read_early_terminate(root.value["early_terminate"], problems)
    if found is None or _metric_name(said) is None:
        sweep.notes.append(f"left out, {'it needs a metric' if found else 'not understood'}: {text}")
        return []
    sweep.notes.append("early_terminate: looks at steps of `context.report`, or of JSON lines with a `step`")
    limit = f", max_iter: {found.max_iter}" if found.max_iter else ""
    return [f"  early_terminate: {{type: asha, min_iter: {found.min_iter}, eta: {found.eta}{limit}}}"]


def _method(said: Mapping[str, Value], sweep: _Sweep) -> str:
    method = said.get("method")
    if method == "bayes" and _metric_name(said) is not None:
        sweep.notes.append(
            "method: bayes: TPE here, by Optuna (pip install optuna); W&B fits a Gaussian process"
        )
        return "tpe"
    if method == "bayes":
        sweep.notes.append("method: bayes: drawn at random here, as no metric is named")
    elif method != "random":
        sweep.notes.append(f"method: {method}: drawn at random here")
    return "random"


def _samples(said: Mapping[str, Value], method: str, phase: str, sweep: _Sweep) -> int:
    count, wanted = SAMPLES, said.get("run_cap")
    if type(wanted) is int and wanted > 0:
        count = wanted
    else:
        sweep.notes.append(f"samples: as many as `wandb agent --count` says; {SAMPLES} here")
        if wanted is not None:
            sweep.notes.append(f"left out, not understood: run_cap: {_json(wanted)}")
    if method == "random" and (fewer := _fewer(count, phase, sweep)):  # an adaptive search ends by itself
        sweep.notes.append(f"samples: {fewer}, as there are no more combinations")
        return fewer
    return count


def _fewer(samples: int, phase: str, sweep: _Sweep) -> int:
    """Return how many samples our loader finds that differ, if those are fewer; else 0."""
    axes = ", ".join(f"{{{_name(name)}: {_json(axis)}}}" for name, axis in sweep.axes)
    text = f"{_name(phase)}: {{search: {{samples: {samples}}}, combinations: [{axes}]}}"
    found = (_SAMPLES_THERE.search(line) for line in _refused(text))
    return next((int(each[1]) for each in found if each), 0)


def _command(said: Mapping[str, Value], sweep: _Sweep) -> str:
    words = said.get("command", COMMAND)
    if isinstance(words, str):
        words = words.split()
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        sweep.notes.append(f"left out, not understood: command: {_json(said['command'])}")
        words = COMMAND
    if "program" not in said and "${program}" in words:
        sweep.notes.append("no program is named: replace train.py")
    if not any(word in ARGUMENTS for word in words):
        sweep.notes.append("the command holds no ${args}: {args} is added, as parameters reach it so here")
        words = [*words, "${args}"]
    found = []
    for word in words:
        if word == "${program}":
            found.append(_literal(str(said.get("program", "train.py"))))
        elif word in WORDS:
            found += [WORDS[word]] * bool(WORDS[word])
        else:
            if "${" in word:
                sweep.notes.append(f"not known in a command: {word}")
            found.append(_literal(word))
    return " ".join(found)


def _literal(word: str) -> str:
    return shlex.quote(word.replace("{", "{{").replace("}", "}}"))


def _name(name: str) -> str:
    return (
        name if _PLAIN_NAME.fullmatch(name) and name.lower() not in ("null", "true", "false") else _json(name)
    )


def _json(value: Value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
