"""`python -m distexp VERB`: the command `distexp`."""

import sys

from distexp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
