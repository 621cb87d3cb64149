"""Starts a Python script of a job: `python start.py SCRIPT [ENTRYPOINT]`."""

import os
import sys

if __name__ == "__main__":
    # Python puts it there itself, unless it was told to be careful (-P, -I, PYTHONSAFEPATH).
    folder = os.path.dirname(os.path.abspath(__file__))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from hostler.script import run

    sys.exit(run(sys.argv[1:]))
