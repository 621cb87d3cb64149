"""A program of another user has nothing of root: ids, groups, capabilities, and no way to more."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from worker_agent.confinement import User, acting, settle
user = User("nobody", 65534, 65534, (65534,))
settle(user)
with acting(user):
    pid = os.posix_spawn("/bin/cat", ["cat", "/proc/self/status"], {})
os.waitpid(pid, 0)
"""


def status_of(text: str) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_a_job_of_another_user_has_nothing_of_root() -> None:
    """Read back from the kernel by the program itself; who is not root cannot make one at all."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if os.getuid() != 0:
        assert ended.returncode != 0 and "Uid" not in ended.stdout
        return
    assert ended.returncode == 0, ended.stderr
    status = status_of(ended.stdout)
    assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
    assert status["Groups"].split() == ["65534"]
    assert {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapAmb": 0,
    }
    assert status["NoNewPrivs"] == "1"
    assert status["Umask"] == "0077"
