#!/usr/bin/env bash
# Usage: ./launch_distributed.sh VERB [words for the script behind the verb]
#
#   run         the whole sweep: a manager and one worker per free GPU (none free: two CPU workers)
#               [--workers N] [--device auto|gpu|cpu] [--gpus N] [--workdir DIR] [flags of experiment_manager.py]
#   manager     the manager alone              [flags of experiment_manager.py]
#   worker      one worker                     [host] [port] [flags of experiment_runner_gpu.py]
#   workers N   N workers                      [host] [port] [flags of experiment_runner_gpu.py]
#   slurm N     N workers as jobs of Slurm     [flags of experiment_runner_gpu.py] [-- options of sbatch]
#   status      what a running manager says    [host] [port]
#   stop        stop the manager as Ctrl+C would; its workers finish their tasks   [--workdir DIR]
#   test        format, lint, types, shell check, tests   [words for pytest]
#   help        this text
#
# The first start makes .venv here and installs requirements.txt. DISTEXP_PYTHON=/path/to/python uses that Python as it
# is and installs nothing. Relative paths count from this folder. The twin for Windows is launch_distributed.bat.
set -euo pipefail

python=${DISTEXP_PYTHON:-}
[[ $python == */* && $python != /* ]] && python=$PWD/$python # it counts from the caller's folder
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
verb=${1:-help}

if [[ $verb == help || $verb == -h || $verb == --help ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]##*/}"
    exit 0
fi

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the Python that makes or checks .venv: its own, else the first that is recent enough.
find_python() {
    local candidate found="no Python"
    for candidate in .venv/bin/python python3 python python3.{14,13,12,11}; do
        command -v "$candidate" >/dev/null || continue
        if is_recent "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
        found="$("$candidate" --version 2>&1 | head -n 1) ($candidate)" || true
    done
    echo "launch_distributed.sh: needs Python >= 3.11, and found $found" >&2
    exit 2
}

if [[ -z $python ]]; then
    starter=$(find_python)
    needs=()
    [[ $verb == test ]] && needs=(--dev)
    "$starter" -m distexp.launcher.bootstrap ${needs[@]+"${needs[@]}"}
    python=.venv/bin/python
fi
exec "$python" -m distexp.launcher.main "$@"
