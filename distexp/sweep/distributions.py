"""Distributions that an axis of a sampled phase may have, in the words of W&B sweeps; draws from each. Pure.

Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys/, "Distribution options for random and Bayesian
search". Differs: draws are rounded to 6 significant digits.
"""

import bisect
import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from distexp.sweep.validation import shown
from distexp.sweep.yaml_loader import Node, Problems, plain
from distexp.task import Value

BLOCK = 8  # samples
MAX_LISTED = 1_000_000  # values of a whole-number distribution that count as a list

Draw = Callable[[Sequence[float]], Sequence[Value]]  # each from a number between 0 and 1, ends excluded

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
    locate: Callable[[float], float | None] | None = None  # the number, 0 to 1, that gives a value; or None


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
                if problems.has(node.value[key]):
                    return None
                raise ValueError(f"{key} must be a number (it is {shown(node.value[key])})")
        made = make(name, given)
        ends = made.draw([2**-54, 1 - 2**-53])
        if name != "categorical" and not all(map(math.isfinite, ends)):
            raise OverflowError
        return made
    except OverflowError:
        problems.at(node, f"{name} gives numbers that are too large here: no float holds them")
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
    return _numbers_of(seed, phase, axis, 0, range(-(-count // BLOCK)))[:count]


def uniform_again(seed: int, phase: str, axis: str, number: int, attempt: int) -> float:
    """Return another number for one sample, for the attempt 1, 2, ..."""
    return _numbers_of(seed, phase, axis, attempt, [number // BLOCK])[number % BLOCK]


def _numbers_of(seed: int, phase: str, axis: str, attempt: int, blocks: Sequence[int]) -> list[float]:
    """Return the numbers of these blocks; one hash makes the `BLOCK` samples of one."""
    head, sha512 = f"{seed}\0{phase}\0{axis}\0{attempt}\0".encode(), hashlib.sha512
    digests = b"".join([sha512(head + b"%d" % at).digest() for at in blocks])
    return [((bits >> 11) + 0.5) / 2**53 for bits in struct.unpack(f">{BLOCK * len(blocks)}Q", digests)]


def _numbers(
    name: str,
    given: Mapping[str, float],
    transform: Callable[[Sequence[float]], list[float]],
    inverse: Callable[[float], float],
) -> Distribution:
    """Return the distribution of numbers that `transform` makes of those between 0 and 1."""
    made = _drawn(name, given, transform)
    step = given.get("q", 1) if name.startswith("q_") else 0
    low, high = given.get("min", -math.inf) - step / 2, given.get("max", math.inf) + step / 2

    def locate(number: float) -> float | None:
        is_inside = math.isfinite(number) and low <= number <= high
        if not is_inside or (step and _rounded(round(number / step) * step) != _rounded(number)):
            return None
        try:
            return min(max(inverse(number), 0.0), 1.0)
        except (ValueError, OverflowError):  # of a number that no logarithm has
            return 0.0 if step else None

    return replace(made, locate=locate)


def _drawn(
    name: str, given: Mapping[str, float], transform: Callable[[Sequence[float]], list[float]]
) -> Distribution:
    low, high = given.get("min", -math.inf), given.get("max", math.inf)
    step = given.get("q", 1) if name.startswith("q_") else None
    if step is not None:
        if step <= 0:
            raise ValueError("q must be above 0")
        as_written = int if isinstance(step, int) else _rounded
        return Distribution(name, lambda us: [as_written(round(x / step) * step) for x in transform(us)])
    if all(_rounded(end) == end for end in (low, high)):
        return Distribution(name, lambda us: [float(f"{x:.6g}") for x in transform(us)])
    return Distribution(name, lambda us: [min(max(_rounded(x), low), high) for x in transform(us)])


def _uniform(name: str, given: Mapping[str, float]) -> Distribution:
    low, width = _bounds(given)
    return _numbers(
        name, given, lambda us: [low + u * width for u in us], lambda x: (x - low) / width if width else 0.5
    )


def _log_uniform(name: str, given: Mapping[str, float]) -> Distribution:
    low, width = _bounds(given)
    if low <= 0:
        raise ValueError(f"min must be above 0 for {name} (it is {low})")
    log_low, log_width = math.log(low), math.log(low + width) - math.log(low)
    return _numbers(
        name,
        given,
        lambda us: [math.exp(log_low + u * log_width) for u in us],
        lambda x: (math.log(x) - log_low) / log_width if log_width else 0.5,
    )


def _normal(name: str, given: Mapping[str, float]) -> Distribution:
    if given.get("sigma", 1) <= 0:
        raise ValueError("sigma must be above 0")
    normal = NormalDist(given.get("mu", 0), given.get("sigma", 1))
    if name.endswith("log_normal"):
        return _numbers(
            name,
            given,
            lambda us: [math.exp(normal.inv_cdf(u)) for u in us],
            lambda x: normal.cdf(math.log(x)),
        )
    return _numbers(name, given, lambda us: list(map(normal.inv_cdf, us)), normal.cdf)


def _int_uniform(name: str, given: Mapping[str, float]) -> Distribution:
    low, width = _bounds(given)
    if not isinstance(low, int) or not isinstance(width, int):
        raise ValueError("int_uniform needs whole numbers: write uniform for others")
    values = range(low, low + width + 1)
    return Distribution(
        name,
        lambda us: [low + int(u * (width + 1)) for u in us],
        values if len(values) <= MAX_LISTED else None,
        lambda x: (x - low + 0.5) / (width + 1) if x in values else None,
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
    return Distribution(name, lambda us: [values[bisect.bisect(bounds, u)] for u in us], possible)


def choice(values: Sequence[Value]) -> Distribution:
    """Return the distribution that draws each of the values alike."""
    count = len(values)
    return Distribution("categorical", lambda us: [values[int(u * count)] for u in us], values)


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
