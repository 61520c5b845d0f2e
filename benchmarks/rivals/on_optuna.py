"""`on_optuna.py REPEATS TRIALS FOLDER`: searches by TPE with successive halving, one after the other.

Two processes share a journal file for each. The epochs of each repeat are logged in FOLDER.
"""

import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.search.replay import replay, space

PROCESSES = 2
ETA = 3  # as ours


def search(repeats: int, trials: int, folder: str, journals: str, process: int) -> None:
    """Be one process: take part in one study after the other."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    callback = optuna.study.MaxTrialsCallback(trials, states=None)
    for repeat in range(repeats):
        log = Path(folder, f"{repeat}.log")

        def objective(trial: optuna.Trial, repeat: int = repeat, log: Path = log) -> float:
            values = {name: trial.suggest_categorical(name, axis) for name, axis in space().items()}
            for step, val_acc in replay(values, repeat, log):
                trial.report(val_acc, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return val_acc

        study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(Path(journals, f"{repeat}.journal")))),
            sampler=optuna.samplers.TPESampler(seed=PROCESSES * repeat + process),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA),
            direction="maximize",
            load_if_exists=True,
        )
        study.optimize(objective, n_trials=trials, callbacks=[callback])


def main(repeats: int, trials: int, folder: str) -> int:
    """Search so many times, until there are so many trials; return how often."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as journals:
        processes = [
            context.Process(target=search, args=(repeats, trials, folder, journals, process))
            for process in range(PROCESSES)
        ]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
    if any(each.exitcode for each in processes):
        raise RuntimeError("a process has failed")
    return repeats


if __name__ == "__main__":
    print(json.dumps({"value": main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])}))
