"""What shims leave when they are killed at a bad moment: an empty cgroup, a tree that does not die, a slow death."""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler import frames
from hostler.jobs import EndedProcess
from tests.worker.real_runner import Bench, eventually, sh, streams, whole_ledger
from tests.worker.test_recovery import crash, shim_of, started
from worker_agent import orphans, recovery, shim_link, shim_protocol
from worker_agent.attempt_events import Started, Unkillable
from worker_agent.attempts import Cause
from worker_agent.cgroups import Containment, hierarchies
from worker_agent.confinement import Confinement, User
from worker_agent.ledger import SegmentIdentity, SegmentWriter
from worker_agent.leftover_cgroups import LeftoverCgroups
from worker_agent.process_tree import boot_id, read_stat
from worker_agent.recovery import Fate, recover
from worker_agent.shim_link import LinkLost, ShimLink
from worker_agent.slot_users import FREELY, Confining


@pytest.fixture
def ice() -> Iterator[Path]:
    """A version 1 freezer of our own: what is frozen in it does not die of SIGKILL before it is thawed."""
    home = next(h.directory for h in hierarchies() if "freezer" in h.options)
    made = Path(home, f"ice-{uuid.uuid4().hex[:8]}")
    made.mkdir()
    yield made
    (made / "freezer.state").write_text("THAWED")
    for _ in range(200):
        try:
            made.rmdir()
            return
        except OSError:
            time.sleep(0.02)


def there(path: Path) -> bool:
    """Whether it exists."""
    return path.exists()


async def test_the_cgroup_of_a_shim_that_died_before_its_first_frame_is_removed(bench: Bench) -> None:
    """By the next agent of the same directory, which leaves those of living shims and of other workers alone."""
    first = await bench.runner().__aenter__()
    await started(bench, first, "a", sh("sleep 60"))
    (living,) = bench.cgroups()
    home = Path(living).parent
    stem = LeftoverCgroups(bench.place / "worker").stem
    left, foreign = home / f"{stem}abcdef-77", home / f"hostler-{uuid.uuid4().hex[:10]}-abcdef-77"
    left.mkdir()
    foreign.mkdir()
    try:
        await crash(first)
        async with bench.runner() as second:
            fates = await recover(second, [bench.key("a")])
            assert fates[bench.key("a")].fate is Fate.RUNNING
            assert [there(each) for each in (left, foreign, Path(living))] == [False, True, True]
            await bench.end_all(second)
    finally:
        foreign.rmdir()
        if there(left):
            left.rmdir()


async def test_a_cgroup_is_found_also_where_an_earlier_agent_was(bench: Bench, tmp_path: Path) -> None:
    """An agent that was started elsewhere made its cgroups elsewhere."""
    leftovers = LeftoverCgroups(bench.place / "worker")
    (bench.place / "worker").mkdir()
    (tmp_path / f"{leftovers.stem}abcdef-78").mkdir()
    leftovers.note([str(tmp_path)])
    leftovers.note([str(tmp_path), "/nowhere"])
    async with bench.runner() as runner:
        await recover(runner, [])
        assert not there(tmp_path / f"{leftovers.stem}abcdef-78")
        await bench.end_all(runner)


async def test_a_shim_that_is_dying_is_not_called_silent(bench: Bench) -> None:
    """On a busy host its sockets close some time before it is dead: its attempts are judged all the same."""
    segments, sockets = bench.place / "worker/segments", bench.place / "run"
    segments.mkdir(parents=True)
    sockets.mkdir()
    dying = await asyncio.create_subprocess_exec("sleep", "60")
    stat = read_stat(dying.pid)
    assert stat is not None
    writer = SegmentWriter(segments, SegmentIdentity(5, boot_id(), dying.pid, stat.start_ticks, "n"))
    key = bench.key("a")
    writer.write(frames.encode(frames.STARTED, f'{{"key":"{key}"}}'.encode(), 1))
    os.close(writer.fd)

    def dies(_: asyncio.StreamReader, connection: asyncio.StreamWriter) -> None:
        connection.close()
        asyncio.get_running_loop().call_later(0.2, dying.kill)

    server = await asyncio.start_unix_server(dies, sockets / "shim-5.sock")
    try:
        async with bench.runner() as runner:
            fates = await recover(runner, [key])
            assert fates[key].fate is Fate.ENDED
            ended = fates[key].ended
            assert ended is not None and ended.cause is Cause.SUPERVISOR_DIED
            await bench.end_all(runner)
    finally:
        server.close()
        with contextlib.suppress(ProcessLookupError):
            dying.kill()
        await dying.wait()


async def test_what_cannot_be_killed_does_not_keep_the_agent_from_its_work(
    bench: Bench, ice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree of a dead shim that does not die: the attempt stays unknown, with its pids, and ends when it is gone."""
    monkeypatch.setattr(recovery, "SETTLE_S", 0.5)
    monkeypatch.setattr(orphans, "WITHIN_S", 0.5)
    first = await bench.runner().__aenter__()
    await started(bench, first, "a", sh("echo $$ > pid; exec sleep 60"))
    pid = int(await bench.appears("pid"))
    shim = shim_of(bench, "a")
    (ice / "cgroup.procs").write_text(str(pid))
    (ice / "freezer.state").write_text("FROZEN")
    await crash(first)
    os.kill(shim, signal.SIGKILL)
    bench.events.clear()
    async with bench.runner() as second:
        key = bench.key("a")
        fates = await recover(second, [key])
        assert fates[key].fate is Fate.UNKNOWN
        await eventually(lambda: bench.events, "the pids to be told")
        assert bench.events[0] == Unkillable(key, (EndedProcess(pid=pid, name="sleep"),))
        second.start(bench.order("b", ("true",)))
        assert (await bench.ended("b")).exit_code == 0

        (ice / "freezer.state").write_text("THAWED")

        ended = await bench.ended("a")
        assert (ended.cause, ended.receipt.survivors) == (Cause.SUPERVISOR_DIED, ())
        assert bench.living() == []
        await bench.end_all(second)


async def test_the_user_of_what_cannot_be_killed_is_nobody_elses(
    bench: Bench, ice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shim died with the agent, and it has left the shim's cgroup: the next agent gives its user to no other."""
    monkeypatch.setattr(recovery, "SETTLE_S", 0.5)
    users = [User(f"job-{uid}", uid, uid) for uid in (61001, 61002)]
    frozen = Containment.FREEZER  # which it leaves for another one
    first = await bench.runner(confining=Confining(Confinement(), users), containment=frozen).__aenter__()
    first.start(bench.order("a", sh("exec sleep 60"), cwd="/"))
    await eventually(lambda: any(isinstance(each, Started) for each in bench.events), "the start")
    (pid,) = [each.pid for each in bench.events if isinstance(each, Started)]
    shim = shim_of(bench, "a")
    (ice / "cgroup.procs").write_text(str(pid))
    (ice / "freezer.state").write_text("FROZEN")
    await crash(first)
    os.kill(shim, signal.SIGKILL)
    await eventually(lambda: (stat := read_stat(shim)) is None or stat.state == "Z", "the shim to be dead")
    async with bench.runner(confining=Confining(Confinement(), users)) as second:
        assert (await recover(second, [bench.key("a")]))[bench.key("a")].fate is Fate.UNKNOWN

        second.start(bench.order("b", sh("id -u"), cwd="/"))
        await bench.ended("b")

        assert streams(whole_ledger(second, bench.key("b")))[0] == b"61002\n"
        (ice / "freezer.state").write_text("THAWED")
        await bench.ended("a")
        await eventually(lambda: len(second.confining._held) == 1, "its user to be free")
        await bench.end_all(second)


@pytest.mark.parametrize(
    "confining", [FREELY, Confining(Confinement(), [User("job-61001", 61001, 61001)])], ids=["free", "one user"]
)
async def test_a_shim_that_was_made_and_not_met_in_time_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, confining: Confining
) -> None:
    """No socket, no segment and no cgroup; and its user is another's when it has ended."""
    hello = ShimLink.hello
    missed: list[ShimLink] = []

    async def late(link: ShimLink, generation: int, within_s: float) -> shim_link.Message:
        if not missed:
            missed.append(link)
            raise LinkLost("the agent was stopped")
        return await hello(link, generation, within_s)

    monkeypatch.setattr(ShimLink, "hello", late)
    async with bench.runner(confining=confining) as runner:
        runner.start(bench.order("a", ("true",), cwd="/"))
        assert (await bench.ended("a")).exit_code == 0
        left = f"shim-{missed[0].shim}."

        def files() -> list[str]:
            return [p.name for place in (runner.segments_dir, runner.sockets_dir) for p in place.glob("shim-*")]

        await eventually(lambda: not any(name.startswith(left) for name in files()), "its files to go")
        assert files()  # of the one that ran it
        assert not [each for each in bench.cgroups() if each.endswith(f"-{missed[0].shim}")]
        await bench.end_all(runner)


async def test_an_agent_that_was_stopped_while_a_shim_was_forked_takes_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is there when it goes on, as late as that is: a shim that nobody knows of would leave its segment."""
    loop, encode = asyncio.get_running_loop(), shim_protocol.encode

    def stops(message: shim_link.Message) -> bytes:
        if message["type"] == "fork":
            loop.call_soon(time.sleep, 0.6)  # when it was sent
        return encode(message)

    async with bench.runner() as runner:
        # The launcher, which takes its time to start on a busy machine, is there before its answer is waited for.
        runner.start(bench.order("other", sh("echo x > began; exec sleep 60")))
        await bench.appears("began")
        monkeypatch.setattr(shim_link, "encode", stops)
        monkeypatch.setattr(shim_link, "FORK_S", 0.3)
        runner.start(bench.order("a", ("true",)))
        assert (await bench.ended("a")).exit_code == 0
        assert runner.shims() == {runner.generation * 1_000_000 + number for number in (1, 2)}
        await bench.end_all(runner)
