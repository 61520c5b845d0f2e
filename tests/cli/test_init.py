"""The first sweep: it is written once, and runs at once."""

from pathlib import Path

import pytest

from distexp.cli import init
from distexp.cli.main import main as command
from distexp.context import Context
from distexp.sweep.config import load_configs
from distexp.sweep.expand import expand


def test_the_first_sweep_can_be_expanded_and_its_experiment_runs(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert command(["init", "--workdir", str(folder)]) == 0
    tasks = [point.task for point in expand(load_configs([Path("configs/config_exp*.yaml")], folder))]
    assert len(tasks) == 18
    assert {task.experiment for task in tasks} == {"my_experiment:run"}
    source = (folder / "my_experiment.py").read_text(encoding="utf-8")
    assert len(source.strip().splitlines()) == 10
    names: dict[str, object] = {}
    exec(compile(source, "my_experiment.py", "exec"), names)
    run = names["run"]
    assert callable(run)
    result = run(tasks[0].config, Context(seed=tasks[0].seed))
    assert set(result) == {"slope", "error"}


@pytest.mark.parametrize("name", list(init.FILES))
def test_nothing_is_overwritten_and_nothing_half_written(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert command(["init", "--workdir", str(tmp_path)]) == 2
    told = f"{name} is there already; choose another folder with --workdir"
    assert capsys.readouterr().err == f"error: {tmp_path}/{told}\n"
    assert mine.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert command(["init", "--workdir", str(tmp_path / "file")]) == 2
    assert "config_exp1.yaml: cannot be written: Not a directory" in capsys.readouterr().err


def test_what_comes_next_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(["init", "--workdir", str(tmp_path / "my sweep")])
    assert f"plan --workdir '{tmp_path / 'my sweep'}'" in capsys.readouterr().out


def test_a_config_for_a_command_is_written_and_asks_for_its_combinations(tmp_path: Path) -> None:
    run = "python train.py --lr {lr} --opt {opt} --seed {seed}"
    axes = ["lr=0.1,1e-2", "opt=sgd,adam w", "seeds=1,2,3"]
    assert command(["init", "--workdir", str(tmp_path), "--command", run, *axes]) == 0
    tasks = [point.task for point in expand(load_configs([Path("configs/config_exp*.yaml")], tmp_path))]
    assert len(tasks) == 12
    assert {(task.config["lr"], task.config["opt"]) for task in tasks} >= {(0.1, "sgd"), (0.01, "adam w")}
    assert {task.seed for task in tasks} == {1, 2, 3}
    assert not (tmp_path / "my_experiment.py").exists()


def test_a_value_may_be_a_list_or_a_mapping(tmp_path: Path) -> None:
    axes = ["layers=[64,32],[128]", 'cfg={"a":1,"b":[2,3]},{}', "tags=[a,b],c"]
    assert command(["init", "--workdir", str(tmp_path), "--command", "python train.py {args}", *axes]) == 0
    (phase,) = load_configs([Path("configs/config_exp*.yaml")], tmp_path)
    assert phase.axes == {
        "layers": ([64, 32], [128]),
        "cfg": ({"a": 1, "b": [2, 3]}, {}),
        "tags": ("[a,b]", "c"),
    }


def test_a_command_may_vary_by_its_seeds_alone(tmp_path: Path) -> None:
    run = "python train.py {args}"
    assert command(["init", "--workdir", str(tmp_path), "--command", run, "seeds=1,2"]) == 0
    points = expand(load_configs([Path("configs/config_exp*.yaml")], tmp_path))
    assert [(point.seed, point.task.config) for point in points] == [(1, {}), (2, {})]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--command", "python a.py {lr}", "lr"], "lr: must be NAME=VALUE,VALUE, such as lr=0.1,0.01"),
        (["--command", "python a.py", "lr=1,2"],
         "lr=1,2: lr reaches neither the command nor output_dir: write {lr} or {args} there"),
        (["--command", "python a.py {args}", "model.w=1,1"],
         "model.w=1,1: 1 stands in the list twice: keep one"),
        (["--command", "python a.py {args}", "seeds=1,x"],
         'seeds=1,x: must hold whole numbers (this is "x")'),
        (["--command", "python a.py {args}", "a=1", "seeds=x"],
         'seeds=x: must hold whole numbers (this is "x")'),
        (["--command", "python a.py {args}", "a=1", "a=2"],
         "a=2: a is there already: name all its values at once"),
        (["--command", "python a.py {args}", "a=1", "a =2"],
         "a =2: a is there already: name all its values at once"),
        (["--command", "python a.py", "seed=1,2", "seeds=3"],
         "seeds=3: seed is there already: name all its values at once"),
        (["--command", "python a.py", "a=1", "seeds=3", "seed=1,2"],
         "seed=1,2: seeds is there already: name all its values at once"),
        (["--command", "python 'a.py {a}", "a=1"], '--command: "python \'a.py {a}" has an open quote'),
        (["--command", "python {args}", "\x07=1"],
         "\\x07=1: the character '\\x07' is not printable: remove it"),
        (["--command", "python a.py {args}", "w=1", "model.w=1,1"],
         "model.w=1,1: 1 stands in the list twice: keep one"),
        (["--command", "python a.py {args}", "model=1", "model.w=2,3"],
         "model.w=2,3: model.w sets a place in a mapping, but model is 1: rename one, "
         "such as my_model (Hydra: model={my_model} in the command)"),
        (["--command", "python a.py {args}", "seed=1,1"],
         "seed=1,1: 1 stands in the list twice: keep one"),
        (["--command", "python a.py {args}", "a=1", "seeds=1,1"],
         "seeds=1,1: 1 stands in the list twice: keep one"),
        (["--command", "python a.py"],
         "--command: name what is to vary, such as lr=0.1,0.01 or seeds=1,2,3"),
        (["--command", "python a.py {args}", "lr=[0.1,0.01]"],
         "lr=[0.1,0.01]: leave the brackets out: NAME=VALUE,VALUE, such as lr=0.1,0.01"),
        (["--command", "python", "a.py", "--lr", "{lr}", "lr=1"],
         "--lr: put the whole command into quotes, such as --command 'python train.py --lr {lr}'"),
        (["--command", "python a.py", "--workdri", "x"],
         "No such option '--workdri'. Did you mean '--workdir'?"),
        (["lr=1"], "lr=1: is for --command, such as --command 'python train.py --lr {lr}'"),
    ],
)  # fmt: skip
def test_a_command_that_would_be_no_sweep_is_refused_and_nothing_is_written(
    tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["init", "--workdir", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {told}"
    assert [*tmp_path.iterdir()] == []
