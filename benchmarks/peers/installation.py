"""Installs what a peer needs, the first time it is measured, as scripts/install does it.

Python packages come into an environment beside the checkout's own, for what they ask for must not be mixed with it;
Debian's packages come by apt-get. Removing the environment makes the next run install anew.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.processes import ROOT, BenchError

ENVIRONMENT: Final = ROOT / ".venv-peers"
PYTHON: Final = ENVIRONMENT / "bin" / "python"


def install(python: Sequence[str], debian: Sequence[str]) -> None:
    """Install packages by their names; what is there already costs a moment. What it does is said on stderr.

    Raises:
        BenchError: they could not be installed.
    """
    if python:
        _install("install_beside", [os.fspath(ENVIRONMENT)], python)
    if debian:
        _install("install_packages", [], debian)


def _install(function: str, arguments: Sequence[str], packages: Sequence[str]) -> None:
    """Call a function of scripts/install."""
    script = 'hostler_root=$1; . "$hostler_root/scripts/install"; shift; "$@"'
    argv = ["sh", "-c", script, "sh", os.fspath(ROOT), function, *arguments, *packages]
    # Out of reach of a Ctrl-C: an installation that is cut short leaves packages half configured, so we wait for it.
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    try:
        process.wait()
    finally:
        process.wait()
    if process.returncode != 0:
        raise BenchError(f"could not be installed: {' '.join(packages)}")
