"""Start the manager of a sweep, or ask a running one.

python experiment_manager.py                      # expand configs/, serve tasks on port 5000
python experiment_manager.py init                 # a first config and a first experiment
python experiment_manager.py plan                 # what would be done, and how long would it take?
python experiment_manager.py report               # an HTML file with charts and all rows
python experiment_manager.py status [host] [port] # how far is it?
python experiment_manager.py watch [host] [port]  # the same, live
python experiment_manager.py VERB --help          # cancel, drain, logs, pause, requeue, resume, show, tasks
"""

import sys

from distexp.cli.main import main
from distexp.manager.manager import ExperimentManager

__all__ = ["ExperimentManager"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
