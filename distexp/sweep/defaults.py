"""The `defaults` of a config file or of a phase: settings, parameters and seeds, read and checked. Pure."""

from dataclasses import dataclass, field

from distexp.sweep.axes import read_seeds
from distexp.sweep.validation import SETTINGS, is_parameter, shown
from distexp.sweep.yaml_loader import Node, Problems, plain


@dataclass(frozen=True)
class Level:
    """What the `defaults` of a file, or of a phase, say; only what is sound."""

    settings: dict[str, Node] = field(default_factory=dict)  # reserved names other than the seeds
    parameters: dict[str, Node] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def read_level(node: Node | None, problems: Problems) -> Level:
    """Return what a mapping of parameters and settings holds; what is unsound is noted and left out."""
    if node is None or node.value is None:
        return Level()
    if not isinstance(node.value, dict):
        problems.at(node, f"must be a mapping of parameters, such as {{epochs: 30}} (it is {shown(node)})")
        return Level()
    items: dict[str, Node] = node.value
    for one, other in (("experiment", "command"), ("seed", "seeds")):
        if one in items and other in items:
            problems.at(items[other], f"{one} and {other} cannot stand together: keep one of them")
    settings = {n: item for n, item in items.items() if n in SETTINGS and _is_sound(n, item, problems)}
    seeds = read_seeds(items["seeds"], problems) if "seeds" in items else ()
    if "seed" in items:
        seeds = (items["seed"].value,)
        if type(items["seed"].value) is not int:
            found = shown(items["seed"])
            problems.at(items["seed"], f"must be a whole number; a list is called `seeds` (it is {found})")
    names = [n for n in items if n not in SETTINGS and n not in ("seed", "seeds")]
    parameters = {n: items[n] for n in names if is_parameter(n, items[n], problems)}
    return Level(settings, parameters, seeds)


def _is_sound(name: str, node: Node, problems: Problems) -> bool:
    is_right, expected = SETTINGS[name]
    if not is_right(plain(node)):
        problems.at(node, f"must be {expected} (it is {shown(node)})")
        return False
    return True
