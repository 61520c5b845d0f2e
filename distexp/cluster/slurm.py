"""Slurm: submit workers as jobs, ask how much time a job has left, requeue a job.

A pilot is a worker that is a job; the tasks stay with the manager. The script is a template and not
submitit's: that library pickles a function for each job, and a pilot is a command.
"""

import logging
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distexp.errors import UserError
from distexp.system.logs import JOB_LOG
from distexp.text import last_line

WARNING_S = 120  # before the time limit: 20 s for a checkpoint, Slurm's clockwork comes up to 60 s late
WARNING_SIGNAL = "SIGUSR2"  # NCCL catches USR1
ANSWER_S = 30.0  # for a busy controller to answer

MANAGER_WAIT_S = 3600  # for pilots whose manager is a job: back in line, it may wait for a place
OF_GPUS = re.compile(r"-G|--gres|--tres-per|--[\w-]*gpu")  # options that a manager has no use for

# With `B:` the warning goes to the batch shell alone, and scancel's SIGTERM reaches the shell and what srun
# has started. `exec` makes the program that shell: it gets both, once, and no srun is needed for one process.
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=distexp{kind}
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@{warning_s}
#SBATCH --output="{log}"
export {job_log}=1
{setup}{program}
"""

# A container's image has no programs of Slurm, so the shell stays outside: it says how much time is left,
# passes signals on, and puts the job back in line. A `wait` that a signal interrupts is begun anew. One that
# comes before the worker is known is not lost: no worker begins then, or it gets the signal once it is known.
# A warning ends, by its signal, a worker that cannot hear it yet: that job goes back in line, too, unless it
# had no time from the start, for so would the next.
# A line of --setup may have said `set -eu`, which would end the shell at the worker's exit code.
AROUND_WRAP = """\
set +eu
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID} limit=() worker='' caught=''
unheard=$((128 + $(kill -l USR2)))
leave() {
    if (($1 == CUT_SHORT_CODE || ($1 == unheard && ${left_s:-1} > 0))); then
        echo "Putting job $job back in line: it was stopped before the sweep's end"
        scontrol requeue "$job"
    fi
    exit "$1"
}
trap 'caught=USR2; [[ -z $worker ]] || kill -USR2 "$worker"' USR2
trap 'caught=TERM; [[ -z $worker ]] || kill -TERM "$worker"' TERM
left=$(timeout ANSWER_S squeue --noheader --job="$job" --format=%L)
if [[ $left =~ ^(([0-9]+)-)?(([0-9]+):)?([0-9]+):([0-9]+)$ ]]; then
    d=${BASH_REMATCH[2]:-0} h=${BASH_REMATCH[4]:-0} m=${BASH_REMATCH[5]} s=${BASH_REMATCH[6]}
    left_s=$((10#$d * 86400 + 10#$h * 3600 + 10#$m * 60 + 10#$s - WARNING_S))
    limit=(--time-limit "0:$((left_s > 0 ? left_s : 0))")
fi
[[ $caught != USR2 ]] || leave "$((${left_s:-1} > 0 ? CUT_SHORT_CODE : unheard))"
[[ $caught != TERM ]] || leave 143
PROGRAM &
worker=$!
[[ -z $caught ]] || kill -"$caught" "$worker"
caught=1
while [[ $caught ]]; do
    caught=
    wait "$worker"
    code=$?
done
leave "$code"
"""
CUT_SHORT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
CUT_SHORT_FLAGS = ("--cut-short-code", str(CUT_SHORT_CODE))

log = logging.getLogger("distexp.worker")


@dataclass(frozen=True)
class Surroundings:
    """What the jobs of a cluster need around their program."""

    setup: Sequence[str] = ()  # lines of bash before it
    wrap: Sequence[str] = ()  # words before those of a worker: a container's


def pilot_script(
    count: int,
    program: Sequence[str],
    flags: Sequence[str],
    log_folder: Path,
    around: Surroundings = Surroundings(),
) -> str:
    """Return the batch script of `count` pilots; each runs a worker and prints to a log.

    Args:
        program: The words that start a worker.
        flags: Those of the worker. They win over the time limit that the script gives to a wrapped one.
    """
    if around.wrap:
        start, end = shlex.join([*around.wrap, *program]), shlex.join([*flags, *CUT_SHORT_FLAGS])
        worker = (
            AROUND_WRAP.replace("ANSWER_S", f"{ANSWER_S:.0f}")
            .replace("WARNING_S", str(WARNING_S))
            .replace("CUT_SHORT_CODE", str(CUT_SHORT_CODE))
            .replace("PROGRAM", f'{start} "${{limit[@]}}" {end}')
            .rstrip()
        )
    else:
        worker = f"exec {shlex.join([*program, *flags, '--requeue'])}"
    script = _script("", worker, log_folder, "slurm-%A_%a.log", around)
    return script.replace("#SBATCH --ntasks=1\n", f"#SBATCH --ntasks=1\n#SBATCH --array=0-{count - 1}\n")


def manager_script(manager: Sequence[str], log_folder: Path, around: Surroundings = Surroundings()) -> str:
    """Return the batch script of a manager's job, which runs the command `manager` and prints to a log."""
    return _script("-manager", f"exec {shlex.join(manager)}", log_folder, "slurm-manager-%j.log", around)


def _script(kind: str, program: str, log_folder: Path, log_name: str, around: Surroundings) -> str:
    return SCRIPT.format(
        kind=kind,
        warning_s=WARNING_S,
        job_log=JOB_LOG,
        log=f"{str(log_folder).replace('%', '%%')}/{log_name}",
        setup="".join(f"{line}\n" for line in around.setup),
        program=program,
    )


def of_manager(options: Sequence[str]) -> list[str]:
    """Return the options of pilots that are good for their manager too: where and for whom, but no GPUs."""
    kept, is_value = [], False
    for word in options:
        if is_value:
            is_value = False
        elif OF_GPUS.match(word):
            is_value = word == "-G" or (word.startswith("--") and "=" not in word)
        else:
            kept.append(word)
    return kept


def submit(script: str, options: Sequence[str]) -> str:
    """Hand a script to sbatch, whose `options` win over those in the script; return the job's number.

    Raises:
        UserError: There is no sbatch, or it refuses: it has said why.
    """
    try:
        asked = subprocess.run(
            ["sbatch", "--parsable", *options], input=script, stdout=subprocess.PIPE, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError(
            "sbatch, the program of Slurm, is not installed here; run this where you submit your jobs"
        ) from None
    if asked.returncode != 0:
        raise UserError(f"sbatch refuses (exit code {asked.returncode}); see its words above")
    return asked.stdout.strip().partition(";")[0]


def parse_time(text: str) -> float:
    """Return seconds of a time as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is no time such as 90 (minutes), 1:30:00 or 2-12:00:00")
    days, *parts = match.groups()
    first, second, third = (int(part or 0) for part in parts)
    if days is None and parts[2] is None:  # no hours: minutes and seconds
        return 60.0 * first + second
    return 86400.0 * int(days or 0) + 3600.0 * first + 60.0 * second + third


def seconds_left(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return in how many seconds Slurm will warn this process of its job's end; None: no job, or no limit.

    It asks squeue: of the environment variables, SLURM_JOB_END_TIME is told by some versions alone, and stays
    as it was when the limit is moved.
    """
    job = _job(environment)
    told = _ask("squeue", "--noheader", f"--job={job}", "--format=%L") if job else None
    try:
        return None if told is None else max(0.0, parse_time(told) - WARNING_S)
    except ValueError:  # UNLIMITED
        return None


def requeue(environment: Mapping[str, str] = os.environ) -> None:
    """Put this process's job back in line, as the last thing that it does: Slurm ends it."""
    job = _job(environment)
    if not job:
        log.warning("--requeue: nothing is requeued, since this is no job of Slurm (SLURM_JOB_ID is not set)")
    elif _ask("scontrol", "requeue", job) is not None:
        log.info("Job %s is back in line: it was stopped before the sweep's end", job)


def is_in_line(job: str) -> bool:
    """Return whether a job waits or runs; also false where Slurm does not answer."""
    command = ("squeue", "--noheader", f"--job={job}", "--format=%T")
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and asked.stdout.strip() not in ("", "COMPLETING")


def cancel(job: str) -> None:
    """Take a job back."""
    _ask("scancel", job)


def _job(environment: Mapping[str, str]) -> str:
    """Return the name of the job that this process is in; empty when in none.

    In an array the SLURM_JOB_ID of one job is that of the array: to squeue and scontrol it means all jobs.
    """
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environment.get("SLURM_JOB_ID", "")


def _ask(*command: str) -> str | None:
    """Return the answer; None with a line in the log when there is none."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: Slurm does not answer (%s)", command[0], error)
        return None
    if asked.returncode != 0:
        said = last_line(asked.stderr, "no output")
        log.warning("%s: failed with exit code %d (%s)", shlex.join(command), asked.returncode, said)
        return None
    return asked.stdout
