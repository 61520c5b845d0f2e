"""Start a worker: it picks a GPU, then requests, runs, records and reports tasks until none is left.

python experiment_runner_gpu.py [host] [port]
"""

import sys

from distexp.gpu import MIN_FREE_GB, get_available_gpu
from distexp.worker_command import main

__all__ = ["MIN_FREE_GB", "get_available_gpu"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
