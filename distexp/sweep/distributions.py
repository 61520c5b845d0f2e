"""Distributions that an axis of a sampled phase may have, in the words of W&B sweeps; draws from each. Pure.

Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys/, "Distribution options for random and Bayesian
search". Differs: draws are rounded to 6 significant digits.
"""

import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from distexp.sweep.validation import shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value

BLOCK = 8  # samples
_UNPACK = struct.Struct(f">{BLOCK}Q").unpack
MAX_LISTED = 1_000_000  # values of a whole-number distribution that count as a list

Draw = Callable[[float], Value]  # from a number between 0 and 1, ends excluded

RENAMED = {  # in W&B these take the exponents of e
    "log_uniform": "log_uniform_values",
    "q_log_uniform": "q_log_uniform_values",
    "inv_log_uniform": "log_uniform_values",
}


@dataclass(frozen=True)
class Distribution:
    """What an axis is drawn from."""

    name: str
    draw: Draw
    values: Sequence[Value] | None = None  # all that can be drawn; None: too many to list


def is_distribution(node: Node) -> bool:
    """Return whether an axis is meant to be one: a mapping with one of its words."""
    words = {"distribution", "min", "max", "probabilities", "mu", "sigma"}
    return isinstance(node.value, dict) and ("values" in node.value or not words.isdisjoint(node.value))


def read_distribution(node: Node, problems: Problems) -> Distribution | None:
    """Return what a mapping says; what is unsound is noted."""
    given = {name: plain(item) for name, item in node.value.items()}
    name = given.pop("distribution", None) or _implied(given)
    try:
        if name in RENAMED:
            raise ValueError(f"write {RENAMED[name]}: W&B's {name} takes exponents")
        if name not in KINDS:
            raise ValueError(f"there is no distribution {name}. There are: {', '.join(KINDS)}")
        needed, optional, make = KINDS[name]
        if missing := [key for key in needed if key not in given]:
            raise ValueError(f"{name} needs {' and '.join(missing)}")
        if unknown := given.keys() - {*needed, *optional}:
            raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")
        for key, value in given.items():
            if key not in ("values", "probabilities") and type(value) not in (int, float):
                raise ValueError(f"{key} must be a number (it is {shown(node.value[key])})")
        return make(name, given)
    except ValueError as error:
        problems.at(node, str(error))
        return None


def _implied(given: Mapping[str, Value]) -> str:
    if "values" in given:
        return "categorical"
    if "mu" in given or "sigma" in given:
        return "normal"
    whole = all(type(given.get(key, 0)) is int for key in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def uniforms(seed: int, phase: str, axis: str, count: int) -> list[float]:
    """Return for each sample of an axis a number between 0 and 1, ends excluded, that nothing else moves."""
    blocks = [_block(seed, phase, axis, 0, at) for at in range(-(-count // BLOCK))]
    return list(itertools.chain.from_iterable(blocks))[:count]


def uniform_again(seed: int, phase: str, axis: str, number: int, attempt: int) -> float:
    """Return another number for one sample, for the attempt 1, 2, ..."""
    return _block(seed, phase, axis, attempt, number // BLOCK)[number % BLOCK]


def _block(seed: int, phase: str, axis: str, attempt: int, at: int) -> list[float]:
    """Return the numbers of `BLOCK` samples, of one hash for speed."""
    digest = hashlib.sha512(f"{seed}\0{phase}\0{axis}\0{attempt}\0{at}".encode()).digest()
    return [((bits >> 11) + 0.5) / 2**53 for bits in _UNPACK(digest)]


def _numbers(name: str, given: Mapping[str, float], transform: Callable[[float], float]) -> Distribution:
    low, high = given.get("min", -math.inf), given.get("max", math.inf)
    step = given.get("q", 1) if name.startswith("q_") else None
    if step is not None:
        if step <= 0:
            raise ValueError("q must be above 0")
        whole = isinstance(step, int)
        return Distribution(name, lambda u: (int if whole else _rounded)(round(transform(u) / step) * step))
    if all(_rounded(end) == end for end in (low, high)):
        return Distribution(name, lambda u: float(f"{transform(u):.6g}"))
    return Distribution(name, lambda u: min(max(_rounded(transform(u)), low), high))


def _uniform(name: str, given: Mapping[str, float]) -> Distribution:
    low, width = _bounds(given)
    return _numbers(name, given, lambda u: low + u * width)


def _log_uniform(name: str, given: Mapping[str, float]) -> Distribution:
    low, width = _bounds(given)
    if low <= 0:
        raise ValueError(f"min must be above 0 for {name} (it is {low})")
    log_low, log_width = math.log(low), math.log(low + width) - math.log(low)
    return _numbers(name, given, lambda u: math.exp(log_low + u * log_width))


def _normal(name: str, given: Mapping[str, float]) -> Distribution:
    normal = NormalDist(given.get("mu", 0), given.get("sigma", 1))
    if normal.stdev <= 0:
        raise ValueError("sigma must be above 0")
    is_log = name.endswith("log_normal")
    return _numbers(name, given, lambda u: math.exp(normal.inv_cdf(u)) if is_log else normal.inv_cdf(u))


def _int_uniform(name: str, given: Mapping[str, float]) -> Distribution:
    low, width = _bounds(given)
    if not isinstance(low, int) or not isinstance(width, int):
        raise ValueError("int_uniform needs whole numbers: write uniform for others")
    values = range(low, low + width + 1)
    return Distribution(
        name, lambda u: low + int(u * (width + 1)), values if len(values) <= MAX_LISTED else None
    )


def _categorical(name: str, given: Mapping[str, Value]) -> Distribution:
    values, weights = given["values"], given.get("probabilities")
    if not isinstance(values, list) or not values:
        raise ValueError("values must be a list that is not empty, such as [1, 2, 4]")
    if weights is None:
        return choice(values)
    if not isinstance(weights, list) or len(weights) != len(values):
        raise ValueError(f"probabilities must be a list of {len(values)} numbers, one for each value")
    if not all(type(w) in (int, float) and w >= 0 for w in weights) or abs(sum(weights) - 1) > 1e-6:
        raise ValueError("probabilities must be 0 or more, and 1 together")
    bounds = list(itertools.accumulate(weights))[:-1]
    possible = [value for value, weight in zip(values, weights, strict=True) if weight]
    return Distribution(name, lambda u: values[sum(u >= bound for bound in bounds)], possible)


def choice(values: Sequence[Value]) -> Distribution:
    """Return the distribution that draws each of the values alike."""
    return Distribution("categorical", lambda u: values[int(u * len(values))], values)


def _bounds(given: Mapping[str, float]) -> tuple[float, float]:
    """Return the lower bound, and how far the upper one is from it."""
    if given["min"] > given["max"]:
        raise ValueError(f"min ({given['min']}) is above max ({given['max']})")
    return given["min"], given["max"] - given["min"]


def _rounded(number: float) -> float:
    """Return 6 significant digits: they survive a CSV file, and any machine computes the same."""
    return float(f"{number:.6g}")


_BOUNDED = ("min", "max")
_SPREAD = ("mu", "sigma")
KINDS: dict[str, tuple[Sequence[str], Sequence[str], Callable[[str, Mapping[str, Value]], Distribution]]] = {
    "uniform": (_BOUNDED, (), _uniform),
    "int_uniform": (_BOUNDED, (), _int_uniform),
    "q_uniform": (_BOUNDED, ("q",), _uniform),
    "log_uniform_values": (_BOUNDED, (), _log_uniform),
    "q_log_uniform_values": (_BOUNDED, ("q",), _log_uniform),
    "normal": ((), _SPREAD, _normal),
    "q_normal": ((), (*_SPREAD, "q"), _normal),
    "log_normal": ((), _SPREAD, _normal),
    "q_log_normal": ((), (*_SPREAD, "q"), _normal),
    "categorical": (("values",), ("probabilities",), _categorical),
}
