"""What listens while a cluster runs."""

from pathlib import Path

import psutil

from hostler.jobs import JobSpec, Work
from tests.cluster.real_cluster import RealCluster


def listeners(directory: Path) -> dict[str, list[str]]:
    """Addresses on which the processes of a cluster listen, by the program's module."""
    found: dict[str, list[str]] = {}
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if not any(str(directory) in word for word in line):
                continue
            program = line[line.index("-m") + 1] if "-m" in line else line[0]
            sockets = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found.setdefault(program, []).extend(str(one.laddr.ip) for one in sockets)
    return found


async def test_nothing_listens_but_what_is_meant_to(cluster: RealCluster) -> None:
    """Coordinator and gateway on loopback, and of workers, launchers and shims none at all."""
    await cluster.up("w1", "w2")
    jobs = await cluster.client.submit([JobSpec(work=Work(argv=("true",)))] * 3)
    async for _ in cluster.client.wait([job for job in jobs if isinstance(job, str)]):
        pass
    found = listeners(cluster.directory)
    assert {program for program, addresses in found.items() if addresses} == {"coordinator", "http_gateway"}
    assert len(found["coordinator"]) == 1
    assert {address.removeprefix("::ffff:") for addresses in found.values() for address in addresses} <= {
        "127.0.0.1",
        "::1",
    }
    assert "worker_agent" in found
