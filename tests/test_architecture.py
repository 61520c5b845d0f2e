"""Which package may import which, how long files are, what has a docstring, what stands nowhere."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import ENVIRONMENT

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "distexp"
TOP = [PROJECT / "experiment_manager.py", PROJECT / "experiment_runner_gpu.py"]
SOURCES = sorted(PACKAGE.rglob("*.py")) + TOP
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
BENCHMARKS = sorted((PROJECT / "benchmarks").rglob("*.py"))

# The one contract of imports: a package imports only from lower rows, and freely from itself.
ROWS = (
    "errors task",
    "text",
    "system",
    "sweep gpu cluster context run_folder task_log",
    "queue results experiments workdir lightning transformers",
    "launcher reporting search wire",
    "manager worker web",
    "cli __main__",
)
ROW_OF = {package: row for row, packages in enumerate(ROWS) for package in packages.split()}

CATCHERS = {  # who may catch whatever comes; the reason
    "worker.worker._tried": "around a task's start: whatever prevents it is a failure of it",
    "system.beside.Beside._run": "around a step in a thread: what it raises is raised where it is waited for",
    "manager.waiting.WaitingWorkers._run": "around one turn for those that wait: the next serves on",
    "manager.searches.Searches._run": "around one choice: whatever it breaks, the manager serves on",
    "results.conversion._first": "around methods of the user's classes: no reason to lose a result",
    "worker.task_main.guarded": "around the experiment: whatever it raises is its failure",
    "worker.task_main._formatted": "around what an exception of the user says of itself: told without it",
    "worker.foreground.Foreground.run": "around the experiment: whatever it raises is told, and debugged",
    "wire.server._ConnectionHandler._answer": "around one request: whatever it breaks, the manager serves on",
}

IMPORTED_WHERE = {
    "torch": "experiments",
    "sklearn": "experiments",
    "yaml": "sweep",
    "pynvml": "gpu",
    "sqlite3": "queue",
    "pandas": "reporting",
    "scipy": "reporting",
    "optuna": "search",
    "ssl": "wire",
    "cryptography": "wire",
    "starlette": "web",
    "uvicorn": "web",
}
FORBIDDEN_IMPORTS = {
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
}  # of pickle, the name of its error is allowed
FORBIDDEN_CALLS = {"eval", "exec", "compile", "os.system", "os.popen"}
LONG = {  # functions of more than 40 lines; the reason
    "manager.ExperimentManager.__init__": "public: a keyword for each thing to say, and a line on each",
    "worker.Worker.__init__": "a keyword for each of its parts, and a line on each that needs one",
}
NAMELESS = {"utils", "util", "helpers", "helper", "misc", "common"}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE if PACKAGE in path.parents else PROJECT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def nodes_of(path: Path) -> Sequence[ast.AST]:
    """Everything in a file, walked once for all tests."""
    return [*ast.walk(parsed(path))]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its full name."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import: write the module's full name"
            assert node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = (PROJECT / name.replace(".", "/")).with_suffix(".py").exists()
                yield name if is_module else node.module


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Every class and function with its dotted name; what stands inside a function as `outer._.inner`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield prefix + child.name, child
            inside = "." if isinstance(child, ast.ClassDef) else "._."
            yield from definitions(child, prefix + child.name + inside)
        else:
            yield from definitions(child, prefix)


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


MODULES = {module_of(path): path for path in SOURCES if module_of(path)}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_a_package_imports_from_lower_rows_alone() -> None:
    wrong = []
    for module, path in MODULES.items():
        if path in TOP:
            continue
        own = package_of(module)
        if own == "__main__":
            continue
        for name in imports(path):
            other = package_of(name.removeprefix("distexp."))
            if name.startswith("distexp.") and other != own and ROW_OF[other] >= ROW_OF[own]:
                wrong.append(f"{module} imports {name}: {other} stands in no lower row than {own}")
    assert wrong == []


def test_every_package_has_its_row() -> None:
    top = {package_of(module) for module, path in MODULES.items() if path not in TOP}
    assert top <= set(ROW_OF)


@pytest.mark.parametrize("module", IMPORTED_WHERE)
def test_one_package_owns_each_foreign_thing(module: str) -> None:
    users = {own for own, path in MODULES.items() for name in imports(path) if package_of(name) == module}
    callbacks = {"lightning", "transformers"} if module == "torch" else set[str]()
    assert {package_of(user) for user in users} - callbacks == {IMPORTED_WHERE[module]}


@pytest.mark.parametrize(
    ("opened", "absent"),
    [
        ("experiment_manager", "torch sklearn pandas scipy rich pynvml optuna"),
        ("distexp.cli.plan", "torch sklearn pandas scipy rich pynvml"),
        ("experiment_runner_gpu, distexp.cli.worker", "torch sklearn pandas scipy yaml"),
        ("distexp.worker.task_main", "torch sklearn pandas numpy yaml"),
    ],
)
def test_what_is_heavy_comes_in_with_the_experiment_alone(opened: str, absent: str) -> None:
    program = f"import sys, {opened}; print(*(set({absent.split()}) & set(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert child.stdout.split() == []


def test_files_have_at_most_500_lines() -> None:
    assert [path.name for path in SOURCES + TESTS + BENCHMARKS if line_count(path) > 500] == []


def test_functions_have_at_most_40_lines() -> None:
    long = set()
    for path in SOURCES + TESTS + BENCHMARKS:
        for name, node in definitions(parsed(path)):
            assert node.end_lineno
            if not isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= 40:
                long.add(f"{path.stem}.{name}")
    assert long == set(LONG)


def test_nine_of_ten_functions_fit_25_lines_and_half_of_the_modules_100_to_250() -> None:
    functions = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for _, node in definitions(parsed(path))
        if not isinstance(node, ast.ClassDef)
    )
    assert functions[len(functions) * 9 // 10] <= 25
    modules = sorted(line_count(path) for path in SOURCES if path.name != "__init__.py")
    assert 100 <= modules[len(modules) // 2] <= 250


def test_everything_public_has_a_docstring() -> None:
    bare = []
    for path in SOURCES:
        tree = parsed(path)
        bare += [] if ast.get_docstring(tree) else [path.name]
        for name, node in definitions(tree):
            is_public = not any(part.startswith("_") for part in name.split("."))
            if is_public and not ast.get_docstring(node):
                bare.append(f"{path.name}: {name}")
    assert bare == []


def test_whatever_comes_is_caught_where_it_is_listed_alone() -> None:
    found = set()
    for path in SOURCES:
        for name, node in definitions(parsed(path)):
            if isinstance(node, ast.ClassDef):
                continue
            for handler in ast.walk(node):
                if isinstance(handler, ast.ExceptHandler):
                    caught = ast.unparse(handler.type) if handler.type else "BaseException"
                    if {"Exception", "BaseException"} & set(caught.strip("()").replace(" ", "").split(",")):
                        found.add(f"{module_of(path)}.{name}")
    assert found == set(CATCHERS)


def test_nothing_received_can_become_code() -> None:
    found = []
    for path in SOURCES:
        names = set(imports(path))
        found += [f"{path.name}: {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        for node in nodes_of(path):
            place = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
                found += [] if node.attr == "UnpicklingError" else [f"{place}: pickle.{node.attr}"]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                found += [f"{place}: {called}"] if called in FORBIDDEN_CALLS else []
                shells = [word for word in node.keywords if word.arg == "shell"]
                found += [f"{place}: shell" for word in shells if ast.unparse(word.value) != "False"]
    assert found == []


def test_only_experiments_load_what_torch_has_saved_and_never_as_pickles() -> None:
    for module, path in MODULES.items():
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert module.startswith("experiments.")
                assert "weights_only=True" in ast.unparse(node)


def test_no_look_at_a_path_fails_where_a_folder_is_closed_to_this_user() -> None:
    """`exists`, `is_file` and `is_dir` of a Path raise PermissionError there, those of `os.path` do not."""
    looks = {"exists", "is_file", "is_dir"}
    found = [
        f"{path.relative_to(PROJECT)}:{node.lineno}"
        for path in SOURCES
        if path.parent.name not in ("launcher", "experiments") and path.name != "lightning.py"  # own files
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in looks and not node.args
    ]
    assert found == []


def test_tests_wait_for_events_and_never_sleep() -> None:
    sleeps = []
    for path in TESTS:
        tree = parsed(path)
        allowed = {  # in the one helper for what sends no event; it has a deadline
            call for name, node in definitions(tree) if name == "poll" for call in ast.walk(node)
        }
        for node in nodes_of(path):
            is_sleep = isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
            sleeps += [f"{path.name}:{node.lineno}"] if is_sleep and node not in allowed else []
    assert sleeps == []


def test_every_property_has_its_examples_so_that_the_thorough_checks_try_more_of_them() -> None:
    lacking = [
        f"{path.name}:{function.name}"
        for path in TESTS
        for function in nodes_of(path)
        if isinstance(function, ast.FunctionDef)
        for made_by in [{ast.unparse(each).partition("(")[0] for each in function.decorator_list}]
        if "given" in made_by and "examples" not in made_by
    ]
    assert lacking == []


def test_every_file_has_a_name_that_says_what_is_in_it() -> None:
    assert [path for path in SOURCES + TESTS if {path.stem, path.parent.name} & NAMELESS] == []
