"""Staged deaths: each gets its cause, outcome, exit code or signal and evidence, in Get, in `show` and in `explain`."""

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hostler.cli.main import call
from hostler.jobs import Container, End, JobSpec, Limits, Work
from hostler.lifecycle import Outcome, State
from tests.cluster.real_cluster import RealCluster, processes_of, until
from tests.worker.container_bench import IMAGE, PodmanBench, a_podman
from worker_agent.cgroups import hierarchies

pytestmark = pytest.mark.ci

MIB = 1024 * 1024
HOG = "x = []\nwhile True: x.append(bytearray(b'x') * 1000000)"
HOG_BELOW = f'{sys.executable} -I -S -c "{HOG}"; exit $?'


class Death(NamedTuple):
    """What must be said of a death."""

    cause: str
    outcome: Outcome
    exit_code: int | None = None
    signal: str = ""
    says: str = ""  # in its evidence or error
    core: bool = False
    again: str = "no retries were asked for"


def job(*argv: str, **options: Any) -> JobSpec:
    """A job of a command; options of its work are told from its own by their names."""
    fields = set(Work.__dataclass_fields__)
    work = {name: options.pop(name) for name in list(options) if name in fields}
    return JobSpec(work=Work(argv=argv, **work), slots=0, **options)


def sh(script: str, **options: Any) -> JobSpec:
    """A job of a shell script."""
    return job("sh", "-c", script, **options)


def python(code: str, **options: Any) -> JobSpec:
    """A job of a small Python program."""
    return job(sys.executable, "-I", "-S", "-c", code, **options)


async def started(cluster: RealCluster, number: str, *, marked: bool = True) -> int:
    """Wait until the program of a job runs, and return the pid of its main process."""

    async def pid() -> int:
        found = processes_of({number}) if marked else []
        return min(found, default=0)

    assert await cluster.client.wait_one(number, until=State.RUNNING, timeout_s=30)
    return int(await until(pid, f"the start of {number}"))


async def say(cluster: RealCluster, *arguments: str) -> str:
    """What the command line answers: called here, as a program of its own would cost more than all else."""

    def answer() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert call(["--data-dir", str(cluster.directory), *arguments]) == 0
        return out.getvalue()

    return await asyncio.to_thread(answer)


async def check(cluster: RealCluster, number: str, death: Death, within_s: float = 60.0) -> End:
    """Wait for the end of a job and compare what is said of it, in all three ways."""
    found = await cluster.client.wait_one(number, timeout_s=within_s)
    assert found is not None, f"{number} ({death}) did not end: {await cluster.client.get(number)}"
    end = found.end
    assert end is not None
    seen = (end.cause, found.outcome, end.exit_code, end.signal)
    assert seen == (death.cause, death.outcome, death.exit_code, death.signal), end
    assert death.says in f"{end.evidence} {end.error}", end
    assert end.core_dumped is death.core

    shown = await say(cluster, "show", number)
    assert f"{death.cause}: {end.error or end.evidence}" in shown
    told = json.loads(await say(cluster, "explain", number, "--json"))
    attempt = told["attempts"][-1]
    said = (attempt["cause"], attempt["outcome"], attempt["exit_code"], attempt["signal"] or "")
    assert said == (death.cause, death.outcome.word, death.exit_code, death.signal)
    assert (attempt["evidence"] or "", attempt["error"] or "") == (end.evidence, end.error)
    assert death.again in attempt["again"], attempt
    sentences = "\n".join(attempt["sentences"])
    assert f"It ended by {death.cause}: " in sentences
    if attempt["attempt"] is not None:  # else it never ran
        assert "Receipt: " in sentences
    assert told["next"][0] == "Nothing: it is over, and its outcome never changes."
    return end


async def test_deaths_of_programs(cluster: RealCluster) -> None:
    """By themselves, by us, at limits, by others, or not begun at all."""
    await cluster.up()
    core = "import os, resource, signal; resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20));"
    here = str(cluster.directory)
    staged: dict[str, tuple[JobSpec, Death]] = {
        "exit": (sh("exit 7"), Death("exit", Outcome.FAILED, 7, says="exited with code 7 by itself")),
        "segv": (
            python(f"{core} os.kill(os.getpid(), signal.SIGSEGV)", cwd=here),
            Death("signal", Outcome.FAILED, signal="SIGSEGV", says="which we did not send", core=_dumps_core()),
        ),
        "term": (sh("kill -TERM $$"), Death("signal", Outcome.FAILED, signal="SIGTERM", says="which we did not send")),
        "timeout": (
            sh("exec sleep 300", timeout_s=0.3, grace_s=5),
            Death("timeout", Outcome.TIMED_OUT, signal="SIGTERM", says="the time limit was reached: we sent SIGTERM"),
        ),
        "deadline": (
            sh("true", labels={"site": "nowhere"}, start_within_s=0.3),
            Death("start_deadline", Outcome.TIMED_OUT, says="label site", again="its time to start was over"),
        ),
        "output": (
            sh("trap 'exit 3' TERM; while :; do echo 123456789; done", output_bytes_max=5000, output_stop=True),
            Death("output_limit", Outcome.FAILED, 3, says="more than its limit of output: we sent SIGTERM"),
        ),
        "memory": (
            python(HOG, limits=Limits(memory_bytes=64 * MIB)),
            Death("memory_limit", Outcome.FAILED, signal="SIGKILL", says="memory limit of 67,108,864 bytes"),
        ),
        "memory below": (
            sh(HOG_BELOW, limits=Limits(memory_bytes=64 * MIB, pids=50)),
            Death("memory_limit", Outcome.FAILED, 137, says="the program exited with code 137"),
        ),
        "missing": (
            job("no-such-program"),
            Death("not_started", Outcome.FAILED, says='exec: "no-such-program": executable file not found in $PATH'),
        ),
    }
    answers = await cluster.client.submit([spec for spec, _ in staged.values()])
    numbers = [str(answer) for answer in answers]
    for number, (_, death) in zip(numbers, staged.values(), strict=True):
        await check(cluster, number, death)
    ends = {name: (await cluster.client.get(number)).end for name, number in zip(staged, numbers, strict=True)}
    assert ends["memory"] is not None
    assert 60 * MIB < ends["memory"].usage.memory_bytes_max <= 64 * MIB
    assert ends["output"] is not None
    assert ends["output"].out_bytes == 5000 < 5000 + ends["output"].dropped_bytes


async def test_deaths_by_others(cluster: RealCluster) -> None:
    """A stop, a kill from outside, and a killed supervisor."""
    await cluster.up()
    stopped, shot, orphaned = [await cluster.client.submit_one(sh("sleep 300 & exec sleep 300")) for _ in range(3)]
    pids = [await started(cluster, number) for number in (stopped, shot, orphaned)]
    await cluster.client.stop(stopped, grace_s=5)
    await check(
        cluster,
        stopped,
        Death("stop", Outcome.STOPPED, signal="SIGTERM", says="stopped on request", again="stopped or refused"),
    )
    os.kill(pids[1], signal.SIGKILL)
    says = "ended by SIGKILL, which we did not send: perhaps out of memory, or another user"
    await check(cluster, shot, Death("signal", Outcome.FAILED, signal="SIGKILL", says=says))
    os.kill(_parent(pids[2]), signal.SIGKILL)
    says = "the process that watched over the program was killed"
    await check(cluster, orphaned, Death("supervisor_died", Outcome.LOST, says=says, again="its on_lost is fail"))
    assert not processes_of({stopped, shot, orphaned})


async def test_the_kernel_ends_what_its_worker_has_no_memory_for(cluster: RealCluster) -> None:
    """A memory group around the worker, which is none of hostler's: the program itself, or one below it."""
    await cluster.up()
    with memory_group(400 * MIB) as group:
        cluster.start("small", before=("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"))
        await cluster.connected(2)
        small = await cluster.worker_id("small")
        main = await cluster.client.submit_one(python(HOG, worker=small))
        says = "this worker ran out of memory, and the kernel ended the program"
        await check(cluster, main, Death("out_of_memory", Outcome.FAILED, signal="SIGKILL", says=says))
        below = await cluster.client.submit_one(sh(HOG_BELOW, worker=small))
        says = "the kernel ended a process of the program"
        await check(cluster, below, Death("out_of_memory", Outcome.FAILED, 137, says=says))
        cluster.end("small", signal.SIGTERM)
        await until(_async(lambda: not Path(group, "cgroup.procs").read_text()), "the end of the worker's processes")


async def test_a_drain_ends_what_runs(cluster: RealCluster) -> None:
    """The worker was told to end, and its jobs with it."""
    await cluster.up("w1", stop_jobs=True)
    number = await cluster.client.submit_one(sh("sleep 300 & exec sleep 300"))
    await started(cluster, number)
    cluster.processes["w1"].send_signal(signal.SIGINT)
    says = "the worker is ending its jobs: we sent SIGTERM"
    await check(cluster, number, Death("drain", Outcome.STOPPED, signal="SIGTERM", says=says))
    assert cluster.processes.pop("w1").wait(30) == 0


async def test_a_worker_that_stays_away_loses_its_job(cluster: RealCluster) -> None:
    """The agent was killed and nobody started another; when one comes at last, nothing of the job stays."""
    await cluster.up()
    number = await cluster.client.submit_one(sh("exec sleep 300", lost_after_s=1.0))
    await started(cluster, number)
    cluster.end("w1", signal.SIGKILL)
    end = await check(cluster, number, Death("worker_lost", Outcome.LOST, says="w1", again="its on_lost is fail"))
    assert not end.nothing_left
    assert "still run on its worker is not known" in await say(cluster, "explain", number)
    cluster.start("w1")
    await until(_async(lambda: not processes_of({number})), "the end of what still ran")


async def test_a_host_that_was_restarted_has_lost_its_jobs(cluster: RealCluster) -> None:
    """The next agent finds another boot id, as after a restart of its host."""
    await cluster.up("w1")
    boot = cluster.directory / "boot_id"
    boot.write_text("11111111-1111-4111-8111-111111111111\n")
    start_with_boot_id(cluster, "w2", boot)
    await cluster.connected(2)
    number = await cluster.client.submit_one(sh("exec sleep 300", worker=await cluster.worker_id("w2")))
    await started(cluster, number)
    cluster.end("w2", signal.SIGKILL)
    boot.write_text("22222222-2222-4222-8222-222222222222\n")
    start_with_boot_id(cluster, "w2", boot)
    says = "was restarted"
    end = await check(cluster, number, Death("host_restarted", Outcome.LOST, says=says, again="its on_lost is fail"))
    assert end.nothing_left
    # A real restart would have ended them.
    await until(_async(lambda: not processes_of({number})), "the end of what the restart did not end")


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanBench]:
    """A podman with an image of busybox."""
    with a_podman() as bench:
        yield bench


async def test_what_the_policy_of_a_worker_forbids_never_runs(cluster: RealCluster, podman: PodmanBench) -> None:
    """It may mount nothing of the host there."""
    await cluster.up("w1", podman="podman", podman_options=podman.options)
    container = Container(image=IMAGE, volumes=("/etc:/etc:ro",))
    number = await cluster.client.submit_one(job("true", container=container))
    says = "this worker lets no container mount /etc"
    death = Death("refused", Outcome.REJECTED, says=says, again="what was stopped or refused is not")
    end = await check(cluster, number, death)
    assert end.started_at_us == 0


# -- staging


def _dumps_core() -> bool:
    """Whether the kernel writes core files at all here."""
    return bool(Path("/proc/sys/kernel/core_pattern").read_text().strip())


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _async(look: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def looked() -> Any:
        return look()

    return looked


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[str]:
    """A memory group below ours; whoever enters it has no more than that."""
    home = next(each for each in hierarchies() if not each.version2 and "memory" in each.options)
    directory = Path(home.directory, f"hostler-test-{os.getpid()}")
    directory.mkdir()
    try:
        (directory / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield str(directory)
    finally:
        directory.rmdir()


def start_with_boot_id(cluster: RealCluster, part: str, boot: Path) -> None:
    """Start a worker that finds this boot id, in a mount namespace of its own."""
    bound = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
    cluster.start(part, before=("unshare", "--mount", "sh", "-c", bound, "sh"))
