"""Unique strings are planted wherever a secret may be, and looked for wherever hostler writes or answers."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hostler.audit import verify
from hostler.jobs import JobSpec, Work
from hostler.keys import RANDOM_BYTES, make_key
from tests.cluster.real_cluster import RealCluster, until

SECRET = "canary-secret-7f3a9c"
ARGUMENT = "canary-argument-1b44"
VARIABLE = "canary-variable-88d0"
CONTENT = "canary-content-e5c2"
PARAMETER = "canary-parameter-40aa"
PRINTED = "canary-printed-c09e"
GARBAGE_KEY = make_key(bytes(range(RANDOM_BYTES))).text

# Where what a user gave with his job may be, as paths of a data directory.
OF_THE_JOB = re.compile(
    r"coordinator/hostler\.db(-wal|-shm)?"  # argv, env and params of its spec
    r"|coordinator/files/.*"  # its files, and what it put out
    r"|workers/[^/]+/work/.*"  # its workspace, while there is one
)
# Where what a program printed may be.
OF_ITS_LOG = re.compile(r"coordinator/logs/.*|coordinator/hostler\.db(-wal|-shm)?|workers/[^/]+/.*\.segment")
HELD = re.compile(r"secrets\.toml")  # the file that an operator wrote


def files_with(directory: Path, text: str) -> set[str]:
    """The files below a directory that hold a text."""
    found = set()
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and text.encode() in path.read_bytes():
                found.add(str(path.relative_to(directory)))
    return found


def command_lines(cluster: RealCluster) -> str:
    """Of every process of the cluster, its launchers and shims included, and not of its jobs."""
    lines = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
            if str(cluster.directory).encode() in line and b"HOSTLER_ATTEMPT=" not in environment:
                lines.append(line + environment)
    return b"\n".join(lines).decode(errors="replace")


def outside(found: set[str], *allowed: "re.Pattern[str]") -> set[str]:
    """Those that are in none of the allowed places."""
    return {path for path in found if not any(pattern.fullmatch(path) for pattern in allowed)}


async def every_flow(cluster: RealCluster) -> tuple[str, list[str], str]:
    """Run jobs that carry all canaries; returns the text of a key, the jobs' ids, and every answer that was given."""
    answers: list[Any] = []
    key = (await cluster.client.access.create_key("ci", scopes=["viewer"])).text
    jobs = []
    script = 'echo "out $TOKEN"; printf "%s" "${TOKEN%9c}"; sleep 0.05; printf "9c\\n"; echo "err $TOKEN" >&2; exit 3'
    carried = {
        "argv": ["sh", "-c", f"{script} # {ARGUMENT}"],
        "env": {"PLAIN": VARIABLE, "TOKEN": {"secret": "token"}},
        "files": [{"path": "inputs/a.txt", "text": CONTENT}],
        "params": {"p": PARAMETER},
        "retries": 1,
    }
    status, answer = await cluster.post("/v1/jobs", {"jobs": [carried]})
    assert status == 200, answer
    answers.append(answer)
    jobs.append(answer["jobs"][0]["id"])
    jobs.append(await cluster.client.submit_one(JobSpec(work=Work(argv=("echo", PRINTED)))))
    async for _ in cluster.client.wait(jobs):
        pass
    for job in jobs:
        answers += [(await cluster.get(f"/v1/jobs/{job}"))[1], (await cluster.log(job)).decode()]
    for headers in ({"x-api-key": GARBAGE_KEY}, {"authorization": f"Bearer {GARBAGE_KEY}"}, {"x-api-key": key}):
        async with cluster.http.get("/v1/jobs", headers=headers) as got:
            answers.append(await got.text())
    for bad in ({**carried, "env": {"TOKEN": {"secret": "no-such"}}}, {**carried, "retries": SECRET}):
        answers.append((await cluster.post("/v1/jobs", {"jobs": [bad]}))[1])
    for path in ("/metrics", "/v1/workers", "/health", "/openapi.json"):
        async with cluster.http.get(path) as got:
            answers.append(await got.text())
    return key, jobs, json.dumps(answers)


async def test_no_canary_is_anywhere_but_where_it_was_put(cluster: RealCluster) -> None:
    """Secrets, keys and headers: nowhere. What belongs to a job: in its spec, its files and its log alone."""
    path = cluster.directory / "secrets.toml"
    path.write_text(f'token = "{SECRET}"\n')
    path.chmod(0o600)
    await cluster.up("w1")
    key, jobs, answers = await every_flow(cluster)
    lines = command_lines(cluster)
    cluster.end("w1", signal.SIGKILL)
    cluster.end("coordinator", signal.SIGKILL)
    cluster.start("coordinator")
    cluster.start("w1")
    await cluster.connected(1)
    answers += json.dumps([(await cluster.get(f"/v1/jobs/{job}"))[1] for job in jobs])
    lines += command_lines(cluster)

    hidden = {"secret": SECRET, "key": key.split("_", 2)[2], "header": GARBAGE_KEY.split("_", 2)[2]}
    for what, text in hidden.items():
        assert outside(files_with(cluster.directory, text), HELD) == set(), what
        assert text not in answers and text not in lines, what
    assert "[redacted]" in answers  # the program did print it
    for text in (ARGUMENT, VARIABLE, CONTENT, PARAMETER):
        assert outside(files_with(cluster.directory, text), OF_THE_JOB) == set(), text
        assert text not in lines
    assert outside(files_with(cluster.directory, PRINTED), OF_THE_JOB, OF_ITS_LOG) == set()
    assert verify(cluster.directory / "coordinator/audit").problem == ""


async def test_a_worker_that_is_told_not_to_redact_leaves_a_log_as_it_is(cluster: RealCluster) -> None:
    """The setting `redact_logs`."""
    path = cluster.directory / "secrets.toml"
    path.write_text(f'token = "{SECRET}"\n')
    path.chmod(0o600)
    await cluster.up("w1", redact_logs=False)
    spec = JobSpec(work=Work(argv=("sh", "-c", "echo $TOKEN")), secrets={"TOKEN": "token"})
    assert await cluster.log(await cluster.client.submit_one(spec)) == SECRET.encode() + b"\n"


async def test_nothing_of_a_data_directory_can_be_read_by_others(cluster: RealCluster) -> None:
    """Whatever mask the programs were started with; to a job it is passed on."""
    old = os.umask(0o002)
    try:
        await cluster.up("w1")
    finally:
        os.umask(old)
    work = Work(argv=("sh", "-c", "umask; echo x > $HOSTLER_OUTPUT_DIR/f; cat"), workspace=True)
    job = await cluster.client.submit_one(JobSpec(work=work))
    assert await cluster.log(job) == b"0002\n"
    async for _ in cluster.client.wait([job]):
        pass
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "hostler.cli.main", "audit", "verify", "--data-dir", str(cluster.directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout[:6]) == (0, "whole:"), ended.stderr

    async def collected() -> bool:
        return not any(cluster.directory.glob("workers/*/work/*"))

    await until(collected, "the end of the workspace")
    open_to_others = {
        str(path.relative_to(cluster.directory)): oct(path.lstat().st_mode)
        for path in cluster.directory.rglob("*")
        # The logs are opened by this test, as a service manager does.
        if path.lstat().st_mode & 0o077 and not path.is_symlink() and path.parent != cluster.directory
    }
    assert open_to_others == {}
