"""The programs of docs/python.md and of the README, run as they stand there."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hostler.endpoint import read_endpoint
from tests.cluster.real_cluster import RealCluster, until

ROOT = Path(__file__).parents[2]
SAYS = {
    "submit-and-wait": (["failed 3"], ()),
    "the-output-as-it-comes": (["out b'one\\n'", "err b'two\\n'"], ()),
    "many-at-once": (["part 7 failed", "100 submitted, 0 refused"], ()),
    "other-languages": (['"outcome": "OUTCOME_SUCCEEDED"'], ("grpc",)),
}


def programs(page: str) -> dict[str, str]:
    """The Python programs of a page by the anchor of the heading that they stand under."""
    found = {}
    for section in re.split(r"(?m)^## ", (ROOT / page).read_text())[1:]:
        heading = re.sub(r"\W+", "-", section.splitlines()[0].strip().lower())
        for program in re.findall(r"(?ms)^```python\n(.*?)^```", section):
            assert heading not in found, f"{page} has two programs under {heading}"
            found[heading] = program
    return found


async def _run(cluster: RealCluster, program: str, *arguments: str) -> list[str]:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,  # where the README says that it is run
        env={"PATH": "/usr/bin:/bin", "HOSTLER_DATA_DIR": str(cluster.directory), "XDG_RUNTIME_DIR": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


async def _grpc_address(cluster: RealCluster) -> str:
    async def known() -> str:
        endpoint = read_endpoint(cluster.directory)
        return endpoint.grpc if endpoint is not None else ""

    return str(await until(known, "the coordinator's port"))


@pytest.mark.timeout(300)
async def test_every_program_of_the_page_about_clients_says_what_it_says_there(cluster: RealCluster) -> None:
    """Each is started as it is, in a process of its own; a page that gains one without an expectation fails."""
    await cluster.up()
    found = programs("docs/python.md")
    assert found.keys() == SAYS.keys()

    for heading, (lines, wants) in SAYS.items():
        arguments = [await _grpc_address(cluster)] if wants else []
        said = await _run(cluster, found[heading], *arguments)
        for line in lines:
            assert any(line in one for one in said), (heading, said)


@pytest.mark.timeout(300)
async def test_the_program_of_the_readme(cluster: RealCluster) -> None:
    """It submits, waits and prints."""
    await cluster.up()

    (program,) = programs("README.md").values()

    assert await _run(cluster, program) == ["succeeded 0"]
