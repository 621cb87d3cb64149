"""``hostler audit`` and ``hostler audit verify``."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hostler.audit import files_of
from tests.cluster.real_cluster import RealCluster


def hostler(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line."""
    command = [sys.executable, "-m", "hostler.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_log_is_shown_and_verified_and_a_changed_line_is_named(data_dir: Path, cluster: RealCluster) -> None:
    """Against a cluster, without one, and on a copy that somebody has touched."""
    directory = cluster.directory / "coordinator/audit"
    place = ("--data-dir", str(cluster.directory))
    cluster.start("coordinator")
    coordinator = cluster.processes["coordinator"]
    try:
        made = _until_made(place)
        shown = hostler("audit", *place, "--json")
        entries = [json.loads(line) for line in shown.stdout.splitlines()]
        assert [entry["number"] for entry in entries] == list(range(1, len(entries) + 1))
        assert made.partition("_")[2].partition("_")[0] in {entry["target"] for entry in entries}
        text = hostler("audit", *place, "--after", "0", "--limit", "2")
        assert len(text.stdout.splitlines()) == 2 and " by " in text.stdout
        assert made not in shown.stdout + text.stdout
        assert _followed(place, len(entries))["action"] == "Access/CreateKey"
    finally:
        cluster.end("coordinator", 15)
    assert coordinator.returncode == 0

    whole = hostler("audit", "verify", *place)
    assert whole.returncode == 0
    head = whole.stdout.split()[-1]
    assert hostler("audit", "verify", str(directory), "--head", head).returncode == 0
    wrong = hostler("audit", "verify", str(directory), "--head", head.partition(":")[0] + ":" + "0" * 64)
    assert wrong.returncode == 1 and "is not the one that was there" in wrong.stdout
    assert hostler("audit", "verify", str(data_dir / "nothing")).returncode == 3
    assert hostler("audit", "verify", str(directory), "--head", "x").returncode == 2

    path = files_of(directory)[0]
    path.write_bytes(path.read_bytes().replace(b'"allowed"', b'"refused"', 1))
    broken = hostler("audit", "verify", str(directory), "--json")
    assert broken.returncode == 1
    assert f"{path.name} line " in json.loads(broken.stdout)["problem"]


def _followed(place: tuple[str, ...], count: int) -> Any:
    """The entry that comes when *count* were shown, to somebody who follows without a limit."""
    command = [sys.executable, "-m", "hostler.cli.main", "audit", *place, "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            for _ in range(count):
                assert following.stdout.readline()
            assert hostler("keys", "create", "later", *place).returncode == 0
            entry = following.stdout.readline()
        finally:
            following.send_signal(signal.SIGINT)
    assert following.returncode == 0
    return json.loads(entry)


def _until_made(place: tuple[str, ...]) -> str:
    """Make a key once the coordinator answers."""
    for _ in range(60):
        made = hostler("keys", "create", "ci", "--quiet", *place)
        if made.returncode == 0:
            return made.stdout.strip()
        os.sched_yield()
    raise AssertionError(made.stderr)
