"""The one function that peers run whose jobs are functions: it starts a program, as every job here does."""

import subprocess
from typing import Final

PROGRAM: Final = "/bin/true"
SLOTS: Final = 2  # jobs that every peer runs at once
WAIT_S: Final = 300.0  # for what has been submitted


def run(number: int) -> int:
    """Run the program and return its exit code; the *number* makes each call another one."""
    null = subprocess.DEVNULL
    return subprocess.run([PROGRAM], stdin=null, stdout=null, stderr=null).returncode
