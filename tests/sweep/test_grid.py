"""Points of a grid: what they spell out, and which of them ask for the same work."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from distexp.sweep.config import Phase, parse_config
from distexp.sweep.expand import expand
from distexp.sweep.grid import GridPoint, duplicates_among
from distexp.task import Task, make_task
from tests.support import examples

NAMES = ["width", "lr", "act"]
VALUES = [1, 1.5, "1", None, [1], True, "nan", float("nan")]


def points(text: str) -> list[GridPoint]:
    return expand(parse_config(text, "configs/config_exp1.yaml"))


@st.composite
def sweeps(draw: st.DrawFn) -> list[GridPoint]:
    values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3, unique_by=repr)
    phases = []
    for name in draw(st.lists(st.sampled_from(["p", "q", "r"]), min_size=1, max_size=3, unique=True)):
        axes = draw(st.dictionaries(st.sampled_from(NAMES), values.map(tuple), min_size=1, max_size=2))
        others = [other for other in NAMES if other not in axes]
        phases.append(
            Phase(
                name=name,
                where="c.yaml:1",
                axes=axes,
                defaults={other: draw(st.sampled_from(VALUES)) for other in others},
                seeds=tuple(draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, unique=True))),
                experiment=draw(st.sampled_from(["m:run", "n:run"])),
                command=None,
                output_dir="results",
                timeout_s=None,
                process="forked",
            )
        )
    return expand(phases)


def duplicates_by_hand(tasks: list[Task]) -> dict[str, set[str]]:
    found = {one.key: {other.key for other in tasks if other.work == one.work} for one in tasks}
    return {key: keys for key, keys in found.items() if len(keys) > 1}


@examples(40)
@given(sweeps())
def test_duplicates_are_those_that_comparing_each_task_with_each_finds(sweep: list[GridPoint]) -> None:
    tasks = [point.task for point in sweep]
    expected = duplicates_by_hand(tasks)
    assert {key: set(keys) for key, keys in duplicates_among(sweep).items()} == expected
    assert {key: set(keys) for key, keys in duplicates_among(tasks).items()} == expected


def test_of_a_part_of_a_grid_only_the_part_has_duplicates() -> None:
    first, second, duplicate = points("p: {combinations: [{a: [1, 2]}]}\nq: {combinations: [{a: [2]}]}")
    both = [second.key, duplicate.key]
    assert duplicates_among([first, second, duplicate]) == {second.key: both, duplicate.key: both}
    assert duplicates_among([first, duplicate]) == {}


def test_a_point_spells_out_the_task_that_stands_there() -> None:
    *_, last = points(
        "p: {defaults: {lr: 0.1}, combinations: [{width: [1, 2]}, {seed: [7, 8]}, {act: [x, y, z]}]}"
    )
    assert last.number == 11
    assert last.task_id == "p_5_8"
    assert structs.replace(last.task, has_seeds=False) == make_task(
        task_id="p_5_8",
        phase="p",
        config={"width": 2, "act": "z", "lr": 0.1},
        seed=8,
        output_dir="results_p",
        axes=("width", "act"),
    )
