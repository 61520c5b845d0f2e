"""The tests see none of the settings that whoever runs them may have in the environment."""

import os

# What the product, git, Slurm and the trackers heed; a git hook and a job of Slurm set theirs, too.
_HEEDED = ("DISTEXP_", "EXPERIMENT_", "GIT_", "MLFLOW_", "SBATCH_", "SLURM_", "WANDB_", "_DISTEXP_")
_LOOKS = {"CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR"}
_MIXES_LINES = {"PYTHONUNBUFFERED"}  # of processes that share a pipe: a print is two writes then
_OF_TESTS = {"DISTEXP_EXAMPLES", "DISTEXP_PYTHON", "DISTEXP_WINDOWS_CACHE"}

for _name in [each for each in os.environ if each.startswith(_HEEDED) or each in _LOOKS | _MIXES_LINES]:
    if _name not in _OF_TESTS:
        del os.environ[_name]

VISIBLE_GPUS = os.environ.pop(
    "CUDA_VISIBLE_DEVICES", None
)  # for tests of real ones; simulated ones are all seen
