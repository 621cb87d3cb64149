"""Who may call, and where hostler listens."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from hostler.settings import load
from tests.cluster.real_cluster import RealCluster

NOBODY = 65534


async def test_a_second_coordinator_on_the_same_directory_refuses_and_says_why(cluster: RealCluster) -> None:
    """Exit code 2 and one sentence with the holder's pid."""
    await cluster.up()
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator", "--settings", cluster.settings.to_json()), stderr=subprocess.PIPE
    )
    _, said = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 2
    assert f"pid {cluster.processes['coordinator'].pid}" in said.decode()


def test_a_gateway_off_loopback_without_a_certificate_is_refused(tmp_path: Path) -> None:
    """There is no coordinator here that would give it one: the process does not start, and says what to do."""
    settings = load(data_dir=tmp_path, http="0.0.0.0:0")
    ended = subprocess.run(
        [sys.executable, "-m", "http_gateway", "--settings", settings.to_json()],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    assert "http_certificate" in ended.stderr
    assert "Traceback" not in ended.stderr


def _listening(pids: set[int]) -> list[str]:
    """The addresses on which these processes listen over TCP."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except FileNotFoundError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].rpartition(":")[0])
    return found


async def test_every_listener_is_on_loopback(cluster: RealCluster) -> None:
    """The kernel's own table: 127.0.0.1 for coordinator and gateway, nothing for the agent."""
    await cluster.up()
    pids = {process.pid for process in cluster.processes.values()}
    # gRPC binds the IPv4 address on an IPv6 socket; the table then shows ::ffff:127.0.0.1.
    assert set(_listening(pids)) == {"0100007F", "0000000000000000FFFF00000100007F"}
    assert _listening({cluster.processes["w1"].pid}) == []


async def _ask_as_nobody(port: int, path: str) -> str:
    """What another local user is answered."""
    script = (
        f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3"
    )
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    child = await asyncio.create_subprocess_exec(*nobody, "bash", "-c", script, stdout=subprocess.PIPE)
    said, _ = await asyncio.wait_for(child.communicate(), 30)
    return said.decode()


async def test_another_local_user_is_refused(cluster: RealCluster) -> None:
    """Over HTTP with an answer that says why; the sockets' directory lets nobody in."""
    await cluster.up()
    port = cluster.http._base_url.port  # type: ignore[union-attr]
    assert port is not None
    said = await _ask_as_nobody(port, "/v1/jobs")
    assert said.split()[1] in ("401", "403"), said
    assert "error" in said
    assert (cluster.directory / "run").stat().st_mode & 0o077 == 0
    assert cluster.directory.stat().st_mode & 0o077 == 0
