"""How the workers of a lab join their coordinator: with the invitation that its own command line makes."""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # until a coordinator that was just started answers


def invite(coordinator_dir: Path, name: str) -> dict[str, str]:
    """An invitation for the worker of this name, as settings of its agent."""
    command = [sys.executable, "-m", "hostler.cli.main", "--data-dir", str(coordinator_dir), "--json"]
    command += ["workers", "invite", "--name-pattern", name]
    until = time.monotonic() + PATIENCE_S
    while True:
        asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if asked.returncode == 0:
            made = json.loads(asked.stdout)
            return {"join": made["token"], "ca_fingerprint": made["ca_fingerprint"]}
        assert time.monotonic() < until, f"{asked.stdout}{asked.stderr}"
        time.sleep(0.1)
