"""Named work with files and results, through real processes: the PiXYZ and Altron documents end to end."""

import asyncio
import hashlib
import io
import json
import os
import signal
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from hostler.jobs import File, JobSpec, Work
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import RealCluster, until

FLAT_BYTES = 32 * 1024 * 1024

SCRIPT = """
import os, signal, time
from pixyz_worker.script import *


def main(pc: ProgramContext, params):
    pc.progress_set_total(4)
    for number in range(4):
        pc.progress_next(f"step {number}")
        time.sleep(params.get("pause", 0))
    pc.progress_stop()
    with open(os.path.join(pc.get_output_dir(), "result.txt"), "w") as file:
        file.write("made")
    return {"steps": 4}


def copy(pc, params):
    os.link(pc.get_input_file(), os.path.join(pc.get_output_dir(), "copy.bin"))
    return os.path.getsize(pc.get_input_file())


def raises(pc, params):
    raise ValueError("no such mesh")


def dies(pc, params):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(pc, params):
    if os.environ["HOSTLER_ATTEMPT"].endswith(".1"):
        os._exit(3)
    return "second time"


def sleeps(pc, params):
    with open(os.path.join(pc.get_output_dir(), "early.txt"), "w") as file:
        file.write("by now")
    time.sleep(60)
"""


async def submit(cluster: RealCluster, *, config: str = "{}", prefix: str = "", **parts: Any) -> str:
    """POST /jobs with a form; returns the uuid."""
    form = aiohttp.FormData()
    for name, value in ({"config": config} | parts).items():
        if isinstance(value, bytes):
            form.add_field(name, value, filename=f"{name}.py" if name == "script" else f"{name}.bin")
        else:
            form.add_field(name, value)
    async with cluster.http.post(f"{prefix}/jobs", data=form) as answer:
        body = await answer.json()
        assert (answer.status, body["status"]) == (200, "SENT"), body
        return str(body["uuid"])


async def custom(cluster: RealCluster, entrypoint: str = "main", **parts: Any) -> str:
    """A job of the script above."""
    seconds = parts.pop("time_limit", 60)
    config = f'{{"entrypoint": "{entrypoint}", "time_limit": {seconds}}}'
    return await submit(cluster, script=SCRIPT.encode(), config=config, **parts)


async def status(cluster: RealCluster, job: str) -> str:
    """The documented status word."""
    return str((await cluster.get(f"/jobs/{job}"))[1]["status"])


async def ended(cluster: RealCluster, job: str) -> dict[str, Any]:
    """Its details, once it is over."""

    async def over() -> Any:
        found = (await cluster.get(f"/jobs/{job}/details"))[1]
        return found if found["status"] in ("SUCCESS", "FAILURE", "REVOKED") else None

    found: dict[str, Any] = await until(over, f"the end of {job}")
    return found


async def download(cluster: RealCluster, path: str) -> tuple[int, bytes, int | None]:
    """Status, body and Content-Length."""
    async with cluster.http.get(path) as answer:
        return answer.status, await answer.read(), answer.content_length


async def test_an_upload_becomes_a_report(cluster: RealCluster) -> None:
    """A named process with a file: its outputs are listed, downloaded one by one, and as an archive."""
    await cluster.up()
    job = await submit(cluster, process="report", file=bytes(range(256)) * 40, params="{}", name="mine")

    found = await ended(cluster, job)

    assert (found["status"], found["progress"], found["name"], found["error"]) == ("SUCCESS", 100, "mine", None)
    assert [step["duration"] >= 0 for step in found["steps"]] == [True] * len(found["steps"])
    names = (await cluster.get(f"/jobs/{job}/outputs"))[1]["outputs"]
    assert "report.html" in names and any(name.endswith(".png") for name in names)
    code, body, length = await download(cluster, f"/jobs/{job}/outputs/report.html")
    assert (code, length) == (200, len(body)) and b"<html" in body.lower()
    code, body, length = await download(cluster, f"/jobs/{job}/outputs/archive")
    assert (code, length) == (200, len(body))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert sorted(archive.namelist()) == sorted(names) and archive.testzip() is None


async def test_progress_is_watched_live_as_an_int(cluster: RealCluster) -> None:
    """From 0 to 100, never backwards; the archive is 425 until the end and 200 then."""
    await cluster.up()
    job = await custom(cluster, params='{"pause": 0.5}')
    seen: list[int] = []
    codes: list[int] = []

    async def over() -> bool:
        body = (await cluster.get(f"/jobs/{job}"))[1]
        if body["progress"] is not None:
            assert type(body["progress"]) is int
            seen.append(body["progress"])
        codes.append((await download(cluster, f"/jobs/{job}/outputs/archive"))[0])
        return bool(body["status"] == "SUCCESS")

    await until(over, "success")
    details = (await cluster.get(f"/jobs/{job}/details"))[1]

    assert seen == sorted(seen) and seen[-1] == 100 and len(set(seen)) >= 4, seen
    assert codes[0] == 425 and codes[-1] == 200 and set(codes) == {425, 200}
    assert [step["info"] for step in details["steps"]] == [f"step {number}" for number in range(4)]
    assert all(0.4 < step["duration"] < 5 for step in details["steps"])
    assert details["result"] == {"steps": 4}


async def test_ends_are_seen_as_ruled(cluster: RealCluster) -> None:
    """An exception, a signal, a time limit, a retry that helped, and a stop."""
    await cluster.up()
    raised, died, late, again = await asyncio.gather(
        custom(cluster, "raises"),
        custom(cluster, "dies"),
        custom(cluster, "sleeps", time_limit=1),
        custom(cluster, "dies_once"),
    )
    stopped = await custom(cluster, "sleeps")

    async def runs() -> bool:
        return await status(cluster, stopped) == "RUNNING"

    await until(runs, "the start")
    await cluster.post(f"/v1/jobs/{stopped}/stop", "")

    found = {job: await ended(cluster, job) for job in (raised, died, late, again, stopped)}
    short = {job: (await cluster.get(f"/jobs/{job}"))[1]["error"] for job in found}
    meta = (await cluster.get(f"/backend/get_task_meta/{raised}"))[1]

    assert [found[job]["status"] for job in found] == ["FAILURE", "FAILURE", "FAILURE", "SUCCESS", "REVOKED"]
    assert [found[job]["retry"] for job in found] == [0, 1, 1, 1, 0], found
    assert (short[raised], short[died], short[late]) == (
        "Internal error",
        "Task process exited with error",
        "Task process timeout",
    )
    assert "no such mesh" in found[raised]["error"] and "Traceback" in found[raised]["error"]
    assert found[again]["result"] == "second time"
    assert meta["status"] == "FAILURE" and meta["result"]["exc_type"] == "ValueError"
    assert (await download(cluster, f"/jobs/{stopped}/outputs/archive"))[0] == 200


async def test_what_a_running_job_has_put_out_can_be_read(cluster: RealCluster) -> None:
    """Its list, and each file as it is now; neither while its worker is away, when nobody knows what there is."""
    await cluster.up()
    job = await custom(cluster, "sleeps")

    async def listed() -> bool:
        return bool((await cluster.get(f"/jobs/{job}/outputs"))[1] == {"outputs": ["early.txt"]})

    await until(listed, "the file in the list")

    assert await download(cluster, f"/jobs/{job}/outputs/early.txt") == (200, b"by now", 6)
    assert (await download(cluster, f"/jobs/{job}/outputs/other.txt"))[0] == 404
    assert await status(cluster, job) == "RUNNING"

    cluster.end("w1", signal.SIGKILL)

    async def unknown() -> bool:
        return (await download(cluster, f"/jobs/{job}/outputs/early.txt"))[0] == 503

    await until(unknown, "the worker's absence")
    code, answer = await cluster.get(f"/jobs/{job}/outputs")
    assert (code, list(answer)) == (503, ["detail"])
    code, answer = await cluster.get(f"/v1/jobs/{job}/outputs")
    assert (code, answer["error"]["code"]) == (503, "unavailable")

    cluster.start("w1")
    await until(listed, "the file in the list again")
    await cluster.client.stop(job, grace_s=0)


async def test_jobs_of_a_dead_worker_do_not_stay_running(cluster: RealCluster) -> None:
    """Some time after its worker was last heard of, a job counts as failed."""
    cluster.start("coordinator", lost_after_by_family_s={"pixyz": 1.0})
    cluster.start("w1", stop_jobs=True)
    await cluster.connected(1)
    cluster.start("gateway")
    await cluster.gateway_up()
    job = await custom(cluster, "sleeps")

    async def runs() -> bool:
        return await status(cluster, job) == "RUNNING"

    await until(runs, "the start")
    cluster.end("w1", signal.SIGKILL)

    assert (await ended(cluster, job))["status"] == "FAILURE"

    cluster.start("w1")  # the program still runs there: it is ended when its host is reached
    await cluster.connected(1)


@pytest.mark.parametrize("part", ["w1", "coordinator", "gateway"])
async def test_a_part_is_killed_while_jobs_with_files_run(cluster: RealCluster, part: str) -> None:
    """Inputs arrive, outputs are kept, and no program starts twice."""
    await cluster.up()
    truth = cluster.directory / "truth"
    content = os.urandom(300_000)
    stored = await cluster.client.files.put(whole(content))
    script = f"echo $HOSTLER_ATTEMPT >>{truth}; sleep 0.3; cat inputs/a >outputs/b; echo '\"done\"' >result.json"
    work = Work(argv=("sh", "-c", script), files=(File(path="inputs/a", digest=stored.digest),), workspace=True)
    answers = await cluster.client.submit([JobSpec(work=work)] * 12)
    jobs = [answer for answer in answers if isinstance(answer, str)]

    async def some_run() -> bool:
        return truth.exists()

    await until(some_run, "the first start")
    cluster.end(part, signal.SIGKILL)
    cluster.start(part)
    await cluster.connected(1)
    async for _ in cluster.client.wait(jobs, timeout_s=60):
        pass

    for job in jobs:
        found = await cluster.client.get(job)
        assert found.outcome is Outcome.SUCCEEDED, found
        assert found.end is not None and json.loads(found.end.result) == "done"
        outputs = await cluster.client.files.outputs(job)
        assert [(file.path, file.digest) for file in outputs.files] == [("b", stored.digest)]
    assert sorted(line.split(".")[0] for line in truth.read_text().split()) == sorted(jobs)

    async def workspaces_gone() -> bool:
        return not list((cluster.directory / "workers" / "w1" / "work").iterdir())

    await until(workspaces_gone, "the end of every workspace")


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """Bytes in pieces."""
    for start in range(0, len(content), 1 << 20):
        yield content[start : start + (1 << 20)]


@pytest.mark.ci
async def test_large_files_go_through_with_flat_memory(cluster: RealCluster) -> None:
    """600 MB up through a form, into a job, out of it, and down again, each part growing under 32 MiB."""
    await cluster.up()
    await ended(cluster, await custom(cluster, "copy", file=b"warm"))
    parts = ("coordinator", "gateway", "w1")
    before = {part: cluster.memory_bytes(part) for part in parts}
    peak = dict(before)
    piece, count = os.urandom(1 << 20), 600
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    async def watch() -> None:
        while True:
            for part in parts:
                peak[part] = max(peak[part], cluster.memory_bytes(part))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    form = aiohttp.FormData()
    form.add_field("file", pieces(), filename="big.bin")
    form.add_field("script", SCRIPT, filename="copy.py")
    form.add_field("config", '{"entrypoint": "copy"}')
    async with cluster.http.post("/jobs", data=form) as answer:
        assert answer.status == 200, await answer.text()
        job = (await answer.json())["uuid"]
    found = await cluster.client.wait_one(job, timeout_s=100)
    assert found is not None and found.state is State.FINISHED
    assert found.end is not None and found.end.result == str(count << 20).encode()
    got = hashlib.sha256()
    async with cluster.http.get(f"/jobs/{job}/outputs/copy.bin") as answer:
        assert answer.content_length == count << 20
        async for chunk in answer.content.iter_chunked(1 << 20):
            got.update(chunk)
    size = 0
    async with cluster.http.get(f"/jobs/{job}/outputs/archive") as answer:
        async for chunk in answer.content.iter_chunked(1 << 20):
            size += len(chunk)
        assert answer.content_length == size
    watching.cancel()

    assert got.digest() == digest.digest()
    assert {part: peak[part] - before[part] for part in parts if peak[part] - before[part] > FLAT_BYTES} == {}


async def test_an_upload_that_breaks_off_leaves_nothing(cluster: RealCluster) -> None:
    """No job, and no bytes in the coordinator's directory."""
    await cluster.up()
    place = urlsplit(cluster.url)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=X\r\n"
    head += b"Content-Length: 50000000\r\n\r\n"
    part = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    writer.write(head + part + bytes(4 << 20))
    await writer.drain()
    staging = cluster.directory / "coordinator" / "files" / "staging"

    async def staged() -> bool:
        return any(staging.iterdir())

    await until(staged, "the first bytes")
    writer.close()

    async def nothing() -> bool:
        return not any(staging.iterdir())

    await until(nothing, "the end of what was staged")
    assert (await cluster.get("/jobs"))[1] == {"jobs": []}


async def test_altron_runs_what_the_operator_has_set(cluster: RealCluster) -> None:
    """Never the title; its result is the program's text."""
    await cluster.up()
    body = {"title": "touch pwned; $(touch pwned)", "description": "a\nb", "priority": 3}
    code, made = await cluster.post("/subprocess/job/create", body)
    assert code == 200 and made["title"] == body["title"]

    async def completed() -> bool:
        found = (await cluster.get(f"/subprocess/job/get_status?job_id={made['id']}"))[1]
        return bool(found == {"id": made["id"], "status": "completed"})

    await until(completed, "completion")
    code, result = await cluster.get(f"/subprocess/job/get_result?job_id={made['id']}")
    code, reply = await cluster.post("/discord/message", [{"sender": "ann", "text": "ping", "image": None}])

    assert body["title"] in result["text"] and result["images"] == []
    assert code == 200 and reply["sender"] == "Altron" and "pong" in reply["text"].lower()
    assert not _found(cluster.directory, "pwned")


def _found(directory: Path, name: str) -> list[Path]:
    return list(directory.rglob(name))
