#!/usr/bin/env bash
# Usage: ./launch_distributed.sh VERB [flags]       `./launch_distributed.sh VERB --help` shows the flags
#
#   run       the whole sweep: a manager and one worker per free GPU (none free: two CPU workers)
#   manager   the manager alone                     worker    one worker
#   workers   N workers: workers 3                  slurm     N workers as jobs of Slurm: slurm 8
#   stop      stop the manager
#   status    how far is it?                        watch     the live view
#   tasks     list tasks                            show      one task, and why it is not running
#   logs      what a task has printed               plan      what would run, and for how long
#   report    an HTML file with charts              web       the live page, in a browser
#   init      a first sweep of your own
#   cancel  requeue  pause  resume  drain  prioritize   steer a running sweep
#   convert   a W&B sweep file as one of ours       test      format, lint, types, tests
#   rerun     one task again, in the foreground     help      this text
#
# The first start makes .venv beside this file and installs requirements.txt. DISTEXP_PYTHON=/path/to/python uses that
# Python as it is and installs nothing. Paths count from where you type. The twin for Windows is launch_distributed.bat.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${DISTEXP_PYTHON:-}
verb=${1:-help}

if [[ $verb == help || $verb == -h || $verb == --help ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
    exit 0
fi

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the Python that makes or checks .venv: its own, else the first that is recent enough.
find_python() {
    local candidate found="no Python"
    for candidate in "$here/.venv/bin/python" python3 python python3.{14,13,12,11}; do
        command -v "$candidate" >/dev/null || continue
        if is_recent "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
        found="$("$candidate" --version 2>&1 | head -n 1) ($candidate)" || true
    done
    echo "launch_distributed.sh: needs Python 3.11 or later (here: $found). Install one, or set DISTEXP_PYTHON to its path" >&2
    exit 2
}

if [[ -z $python ]]; then
    starter=$(find_python)
    needs=()
    [[ $verb == test ]] && needs=(--dev)
    (cd -- "$here" && "$starter" -m distexp.launcher.bootstrap ${needs[@]+"${needs[@]}"})
    python=$here/.venv/bin/python
fi
export DISTEXP_COMMAND=$0
exec "$python" "$here/experiment_manager.py" "$@"
