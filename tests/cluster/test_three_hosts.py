"""A cluster over three hosts, set up by pasting the lines of docs/several-hosts.md into their shells."""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.real_cluster import until
from tests.support.netlab import Lab

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "several-hosts.md"
BLOCK = re.compile(r"<!-- on (.*?)(, stays)? -->\n```sh\n(.*?)```", re.DOTALL)
WITHIN_S = 90.0
SECRET_FILES = ("ca.key", "credentials.json", "gateway.key", "me.key")
COORDINATOR, WORKER, GATEWAY = "the coordinator's host", "each worker's host", "the gateway's host"

pytestmark = pytest.mark.timeout(240)


class Hosts:
    """Three hosts with a shell each, and what is typed there."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.running: list[subprocess.Popen[bytes]] = []
        command = directory / "bin" / "hostler"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hostler.cli.main "$@"\n')
        command.chmod(0o755)
        for host in lab.hosts:
            (directory / host).mkdir()

    def _environment(self, host: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "HOME") if name in os.environ}
        own = {
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_DATA_HOME": str(self.directory / host),  # only the network is a host's own
            "HOSTLER_NAME": host,
            "HOSTLER_LOG_FORMAT": "json",
            "HOSTLER_PODMAN": "",
            # What the page tells the owner of a worker's host to decide.
            "HOSTLER_ALLOW_ROOT": "true",
            "HOSTLER_ALLOW_ARBITRARY": "true",
        }
        return kept | own

    def start(self, host: str, lines: str) -> None:
        """Paste lines of which the last one stays in the foreground."""
        with (self.directory / f"{host}.log").open("ab") as log:
            process = self.lab.popen(
                host,
                ["sh", "-euc", lines],
                cwd=self.directory / host,
                env=self._environment(host),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)

    def call(self, host: str, lines: str) -> str:
        """Paste lines and return what they print."""
        command = self.lab.command(host, ["sh", "-euc", lines])
        where = {"cwd": self.directory / host, "env": self._environment(host)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **where)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{lines}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def log(self, host: str) -> str:
        """What its programs have said."""
        return (self.directory / f"{host}.log").read_text()

    def end(self) -> None:
        """End everything in order."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(30)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Three hosts on which nothing runs; afterwards nothing does."""
    with Lab(f"ht{uuid4().hex[:10]}", 3) as lab, tempfile.TemporaryDirectory(prefix="ht-") as directory:
        made = Hosts(lab, Path(directory))
        try:
            yield made
        finally:
            made.end()
            lab.down()


def lines_for(where: str, filled: Callable[[str], str]) -> list[str]:
    """The blocks of the page for one host, in order."""
    return [filled(block) for host, _, block in BLOCK.findall(PAGE.read_text()) if host == where]


async def test_the_lines_of_the_page_make_a_cluster_over_three_hosts(hosts: Hosts) -> None:
    """Coordinator on the first, a worker and the gateway on the second, a worker on the third; jobs run on both."""
    values = {"192.0.2.1": hosts.lab.address("h1")}

    def filled(lines: str) -> str:
        for placeholder, value in values.items():
            lines = re.sub(rf"\b{re.escape(placeholder)}\b", value, lines)  # not within the name of a variable
        return lines

    start, *_ = lines_for(COORDINATOR, filled)
    hosts.start("h1", start)

    async def serves() -> bool:
        return '"coordinator.started"' in hosts.log("h1")

    await until(serves, "the coordinator's start", WITHIN_S)
    _, invite, create_key, _ = lines_for(COORDINATOR, filled)
    printed = await asyncio.to_thread(hosts.call, "h1", invite)
    match = re.fullmatch(r"hostler worker .*--ca-fingerprint (\w+) --join (\S+)\n", printed)
    assert match is not None, printed
    values |= {"FINGERPRINT": match[1], "hsj_TOKEN": match[2]}
    (join,) = lines_for(WORKER, filled)
    assert join == printed, "the page shows the line that is printed"
    hosts.start("h2", join)
    hosts.start("h3", join)
    values["hst_KEY"] = (await asyncio.to_thread(hosts.call, "h1", create_key)).strip()
    gateway, _ = lines_for(GATEWAY, filled)
    hosts.start("h2", gateway)

    async def connected() -> bool:
        listed = json.loads(await asyncio.to_thread(hosts.call, "h1", "hostler --json workers"))
        return sorted(each["name"] for each in listed["workers"] if each["state"] == "connected") == ["h2", "h3"]

    await until(connected, "two connected workers", WITHIN_S)

    async def gateway_up() -> bool:
        assert all(process.poll() is None for process in hosts.running), hosts.log("h2")
        return '"gateway.started"' in hosts.log("h2")

    await until(gateway_up, "the gateway's start", WITHIN_S)
    for name in ("h2", "h3"):
        ran = await asyncio.to_thread(hosts.call, "h1", f"hostler run --worker {name} -- sh -c 'hostname; exit 0'")
        assert ran == f"{name}\n"
    values["hst_MINE"] = (await asyncio.to_thread(hosts.call, "h1", lines_for(COORDINATOR, filled)[3])).strip()
    answers = await asyncio.to_thread(hosts.call, "h2", lines_for(GATEWAY, filled)[1])
    by_gateway, end = json.JSONDecoder().raw_decode(answers)
    by_command_line = json.loads(answers[end:])
    for answer in (by_gateway, by_command_line):
        assert sorted(each["name"] for each in answer["workers"]) == ["h2", "h3"]
    await _check_what_else_the_page_says(hosts)


async def _check_what_else_the_page_says(hosts: Hosts) -> None:
    secret = [path for path in hosts.directory.rglob("*") if path.name in SECRET_FILES]
    assert len(secret) == 5
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    listening = await asyncio.to_thread(hosts.call, "h3", "ss -Htln || true")
    assert listening == "", "a worker listens on nothing"
    await asyncio.to_thread(hosts.call, "h1", "hostler workers revoke h3")

    async def refused() -> bool:
        return "this worker was revoked" in hosts.log("h3")

    await until(refused, "the refusal in the worker's log", WITHIN_S)
    listed: dict[str, Any] = json.loads(await asyncio.to_thread(hosts.call, "h1", "hostler --json workers"))
    assert {each["name"]: each["state"] for each in listed["workers"]} == {"h2": "connected", "h3": "revoked"}
