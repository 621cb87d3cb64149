"""Agents come and go, shims are killed: every attempt has exactly one fate, and it is the true one."""

import asyncio
import contextlib
import os
import signal

import pytest

from hostler import frames
from tests.worker.real_runner import Bench, eventually, python, sh, streams, whole_ledger
from worker_agent.attempt_events import NeverRan, Output, Started
from worker_agent.attempts import Cause, Ended
from worker_agent.cgroups import Containment
from worker_agent.ledger import SegmentIdentity, SegmentWriter
from worker_agent.process_tree import read_stat
from worker_agent.recovery import Fate, recover
from worker_agent.runner import Runner
from worker_agent.shim_link import ShimLink


def shim_of(bench: Bench, name: str) -> int:
    """Return the pid of the shim that runs an attempt."""
    started = next(e for e in bench.events if isinstance(e, Started) and e.key == bench.key(name))
    stat = read_stat(started.pid)
    assert stat is not None
    return stat.parent


async def crash(runner: Runner) -> None:
    """Leave as a killed agent does: no goodbye to anybody; the kernel closes its sockets."""
    runner._closing = True  # a killed agent forks no more
    for link in runner._links.values():
        link.close()
    runner._links.clear()
    runner._idle.clear()
    for owned in list(runner._owned):
        owned.cancel()
    await asyncio.gather(*runner._owned, return_exceptions=True)
    await runner._launcher.close()
    runner.ledgers.close()


async def started(bench: Bench, runner: Runner, name: str, argv: tuple[str, ...]) -> None:
    """Start an attempt and wait until it is told to be running."""
    runner.start(bench.order(name, argv))
    key = bench.key(name)
    await eventually(lambda: any(isinstance(e, Started) and e.key == key for e in bench.events), f"start of {name}")


async def test_the_next_agent_finds_what_runs_what_ended_and_what_never_ran(bench: Bench) -> None:
    """Three fates, each with proof; the running one goes on as if nothing had happened."""
    first = await bench.runner().__aenter__()
    script = "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 6"
    await started(bench, first, "runs", sh(script))
    await started(bench, first, "ends", sh("while [ ! -e go-end ]; do sleep 0.02; done; echo bye; exit 3"))
    await crash(first)
    (bench.place / "go-end").touch()
    await eventually(lambda: len(bench.living()) <= 2, "the second to end")
    bench.events.clear()

    async with bench.runner() as second:
        keys = [bench.key(name) for name in ("runs", "ends", "never")]
        fates = await recover(second, keys)

        assert [fates[key].fate for key in keys] == [Fate.RUNNING, Fate.ENDED, Fate.NEVER_RAN]
        ended = fates[keys[1]].ended
        assert ended is not None
        assert (ended.exit_code, ended.cause) == (3, Cause.EXIT)
        assert streams(whole_ledger(second, keys[1]))[0] == b"bye\n"
        assert list(second.running()) == [keys[0]]
        (bench.place / "go").touch()
        ended = await bench.ended("runs")
        assert ended.exit_code == 6
        assert streams(whole_ledger(second, keys[0]))[0] == b"one\ntwo\n"
        second.forget(keys)
        await bench.end_all(second)
    assert not list((bench.place / "worker/segments").iterdir())


async def test_warm_shims_of_an_earlier_agent_are_used_again(bench: Bench) -> None:
    """And the earlier agent, were it still there, could give them no order."""
    first = await bench.runner().__aenter__()
    first.start(bench.order("a", ("true",)))
    await bench.ended("a")
    await crash(first)
    async with bench.runner() as second:
        await recover(second, [])
        second.start(bench.order("b", ("true",)))
        ended = await bench.ended("b")
        assert ended.segment.startswith("shim-1000001.")
        await bench.end_all(second)


async def test_attempts_that_the_journal_does_not_know_are_ended(bench: Bench) -> None:
    """Nobody would ever ask for them; and nobody is told."""
    first = await bench.runner().__aenter__()
    await started(bench, first, "stray", sh("trap '' TERM; sleep 60 & wait"))
    await crash(first)
    bench.events.clear()
    async with bench.runner() as second:
        assert await recover(second, []) == {}
        await eventually(lambda: not bench.living(), "the stray to be ended")
        await eventually(lambda: not second.running(), "the runner to know")
        assert bench.events == [] or all(not isinstance(e, Ended) for e in bench.events)
        await bench.end_all(second)


async def test_a_killed_shim_costs_the_exit_status_but_leaves_nothing(bench: Bench, runner: Runner) -> None:
    """The tree is found by its cgroup and its mark and ended; the output so far is kept; the cause is honest."""
    code = (
        "import os, time\n"
        "os.write(1, b'so far\\n')\n"
        "for i in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); time.sleep(60)\n"
        "open('up', 'w').write('up\\n'); time.sleep(60)\n"
    )
    await started(bench, runner, "a", python(code))
    await bench.appears("up")
    await eventually(lambda: any(isinstance(e, Output) for e in bench.events), "output")

    os.kill(shim_of(bench, "a"), signal.SIGKILL)

    ended = await bench.ended("a")
    assert bench.living() == []
    assert (ended.cause, ended.exit_code, ended.signal) == (Cause.SUPERVISOR_DIED, None, "")
    assert len(ended.receipt.ended) == 4
    assert streams(whole_ledger(runner, ended.key))[0] == b"so far\n"
    runner.start(bench.order("b", ("true",)))
    assert (await bench.ended("b")).exit_code == 0


async def test_a_search_that_could_have_missed_a_process_does_not_say_verified(bench: Bench) -> None:
    """A child that cleared its environment outlives its shim, killed with its launcher: no receipt may deny that."""
    async with bench.runner(containment=Containment.NONE) as runner:
        await started(bench, runner, "a", sh("env -i setsid sh -c 'echo $$ > hidden; exec sleep 60' & sleep 60"))
        hidden = int(await bench.appears("hidden"))
        shim = shim_of(bench, "a")
        os.kill(runner._launcher.pid, signal.SIGKILL)
        await eventually(lambda: not runner._launcher.pid, "the launcher to end")
        try:
            os.kill(shim, signal.SIGKILL)
            ended = await bench.ended("a")
            assert read_stat(hidden) is not None
        finally:
            os.kill(hidden, signal.SIGKILL)
        assert (ended.receipt.verified_by, ended.receipt.verified_at_us) == ("", 0)
        assert not ended.end().nothing_left
        assert "would not have been found" in ended.evidence
        await bench.end_all(runner)


async def test_what_hides_from_the_search_is_found_among_what_the_launcher_adopted(bench: Bench) -> None:
    """A child that left its cgroup, its session and its environment is ended when the shim is killed, all the same."""
    async with bench.runner() as runner:
        leave = "for c in $(grep ' - cgroup' /proc/self/mountinfo | cut -d' ' -f5); do echo 0 > $c/cgroup.procs; done"
        hide = f"({leave}) 2>/dev/null; env -i setsid sh -c 'echo $$ > hidden; exec sleep 60' & sleep 60"
        await started(bench, runner, "other", sh("sleep 60"))
        await started(bench, runner, "a", sh(hide))
        hidden = int(await bench.appears("hidden"))

        os.kill(shim_of(bench, "a"), signal.SIGKILL)

        ended = await bench.ended("a")
        assert read_stat(hidden) is None
        assert hidden in {each.pid for each in ended.receipt.ended}
        assert not bench.ends("other")  # whose shim is the launcher's own child
        await bench.end_all(runner)


async def test_a_shim_that_is_traced_or_stopped_by_its_job_ends_it_all_the_same(bench: Bench) -> None:
    """The agent ends the tracer, and lets a stopped shim go on when it was told to stop the job."""
    trace = "import ctypes, os, time; ctypes.CDLL(None).ptrace(16, os.getppid(), None, None); "
    trace += "open('up', 'w').write('up\\n'); time.sleep(60)"
    for name, argv in (("traces", python(trace)), ("stops", sh("kill -STOP $PPID; echo up > up; sleep 60"))):
        async with bench.runner() as runner:
            runner.start(bench.order(name, argv))
            await bench.appears("up")
            (bench.place / "up").unlink()
            runner.stop(bench.key(name), grace_s=0, cause=Cause.STOP)
            assert (await bench.ended(name)).receipt.verified_by.startswith("wait")
            await bench.end_all(runner)


async def test_a_stopped_shim_goes_on_while_any_of_its_attempts_is_to_end(bench: Bench) -> None:
    """Also when the last stop that it was told was of another one, which has come back since."""
    path = bench.place / "shim.sock"
    stopped = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        stat = read_stat(stopped.pid)
        assert stat is not None
        link = ShimLink(shim=1, pid=stopped.pid, start_ticks=stat.start_ticks, nonce="n", path=path)
        link.orders = {"a.0.1": None, "b.0.1": None}
        for key in link.orders:
            link.send({"type": "stop", "key": key})
        del link.orders["b.0.1"]
        os.kill(stopped.pid, signal.SIGSTOP)
        await eventually(lambda: state_of(stopped.pid) == "T", "it to be stopped")

        link.free()
        await eventually(lambda: state_of(stopped.pid) == "S", "it to go on")

        del link.orders["a.0.1"]
        os.kill(stopped.pid, signal.SIGSTOP)
        await eventually(lambda: state_of(stopped.pid) == "T", "it to be stopped")
        link.free()
        assert (link.held, state_of(stopped.pid)) == (0, "T")
    finally:
        stopped.kill()
        await stopped.wait()


def state_of(pid: int) -> str:
    """The state of a process, as /proc has it."""
    stat = read_stat(pid)
    return "" if stat is None else stat.state


async def test_a_shim_that_was_killed_with_its_agent_is_judged_by_the_next(bench: Bench) -> None:
    """An unfinished attempt of a dead shim: its tree is ended first, then it is told."""
    first = await bench.runner().__aenter__()
    await started(bench, first, "a", sh("echo up > up; sleep 60 & wait"))
    await bench.appears("up")
    shim = shim_of(bench, "a")
    await crash(first)
    os.kill(shim, signal.SIGKILL)
    async with bench.runner() as second:
        fates = await recover(second, [bench.key("a")])
        assert bench.living() == []
        ended = fates[bench.key("a")].ended
        assert ended is not None
        assert ended.cause is Cause.SUPERVISOR_DIED
        await bench.end_all(second)


async def test_an_idle_shim_that_is_killed_is_simply_replaced(bench: Bench, runner: Runner) -> None:
    """Its cgroup and socket are cleaned away."""
    runner.start(bench.order("a", ("true",)))
    await bench.ended("a")
    (link,) = runner._idle
    os.kill(link.pid, signal.SIGKILL)
    await eventually(lambda: not list((bench.place / "run").glob("*.sock")), "the socket to be removed")
    runner.start(bench.order("b", ("true",)))
    assert (await bench.ended("b")).exit_code == 0


async def test_an_order_that_a_dying_shim_never_read_runs_on_another(bench: Bench, runner: Runner) -> None:
    """No `started` frame and a dead shim prove that it never ran, so it may run now: once."""
    runner.start(bench.order("a", ("true",)))
    await bench.ended("a")
    (link,) = runner._idle
    os.kill(link.pid, signal.SIGSTOP)
    runner.start(bench.order("b", sh("echo ran >> ran")))
    os.kill(link.pid, signal.SIGKILL)

    assert (await bench.ended("b")).exit_code == 0
    assert (bench.place / "ran").read_text() == "ran\n"


async def test_a_silent_shim_leaves_its_attempts_unknown_until_it_answers(bench: Bench) -> None:
    """Alive and silent means "may have run": nothing is called never-ran before it is fenced."""
    first = await bench.runner().__aenter__()
    await started(bench, first, "a", sh("sleep 60"))
    shim = shim_of(bench, "a")
    os.kill(shim, signal.SIGSTOP)
    await crash(first)
    bench.events.clear()
    try:
        async with bench.runner() as second:
            keys = [bench.key("a"), bench.key("never")]
            fates = await recover(second, keys)
            assert [fates[key].fate for key in keys] == [Fate.UNKNOWN, Fate.UNKNOWN]

            os.kill(shim, signal.SIGCONT)

            await eventually(lambda: NeverRan(keys[1]) in bench.events, "the proof that it never ran")
            assert list(second.running()) == [keys[0]]
            await bench.end_all(second)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim, signal.SIGCONT)


async def test_a_silent_shim_that_dies_is_judged_then(bench: Bench) -> None:
    """Its end comes as an event."""
    first = await bench.runner().__aenter__()
    await started(bench, first, "a", sh("sleep 60"))
    shim = shim_of(bench, "a")
    os.kill(shim, signal.SIGSTOP)
    await crash(first)
    async with bench.runner() as second:
        fates = await recover(second, [bench.key("a")])
        assert fates[bench.key("a")].fate is Fate.UNKNOWN
        os.kill(shim, signal.SIGKILL)
        ended = await bench.ended("a")
        assert ended.cause is Cause.SUPERVISOR_DIED
        assert bench.living() == []
        await bench.end_all(second)


async def test_a_lost_connection_is_made_anew_and_loses_nothing(bench: Bench, runner: Runner) -> None:
    """Also a stop that was said into the broken connection is said again."""
    await started(bench, runner, "a", sh("trap 'echo bye; exit 5' TERM; echo up > up; while :; do sleep 0.02; done"))
    await bench.appears("up")
    (link,) = runner._links.values()
    assert link._protocol is not None
    link._protocol.abort()
    runner.stop(bench.key("a"), grace_s=10, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert (ended.exit_code, ended.cause) == (5, Cause.STOP)
    assert streams(whole_ledger(runner, ended.key))[0] == b"bye\n"


async def test_an_end_told_into_a_broken_connection_is_told_again(bench: Bench, runner: Runner) -> None:
    """The shim keeps its last end for the next hello."""
    await started(bench, runner, "a", sh("while [ ! -e go ]; do sleep 0.01; done; exit 8"))
    (link,) = runner._links.values()
    os.kill(link.pid, signal.SIGSTOP)
    try:
        assert link._protocol is not None
        link._protocol.abort()
        (bench.place / "go").touch()
        await eventually(lambda: not bench.living(), "the program to be a zombie")
    finally:
        os.kill(link.pid, signal.SIGCONT)
    assert (await bench.ended("a")).exit_code == 8


async def test_a_killed_launcher_disturbs_no_attempt(bench: Bench, runner: Runner) -> None:
    """Shims survive it, and the next shim is forked by a new one."""
    await started(bench, runner, "a", sh("while [ ! -e go ]; do sleep 0.01; done; exit 2"))
    process = runner._launcher._process
    assert process is not None
    process.kill()
    await eventually(lambda: runner._launcher._protocol is None, "the loss to be seen")
    runner.start(bench.order("b", ("true",)))
    assert (await bench.ended("b")).exit_code == 0
    (bench.place / "go").touch()
    assert (await bench.ended("a")).exit_code == 2


async def test_segments_of_an_earlier_boot_are_cleaned_away(bench: Bench) -> None:
    """Their pids mean nothing now; a stale socket goes too."""
    segments, sockets = bench.place / "worker/segments", bench.place / "run"
    segments.mkdir(parents=True)
    sockets.mkdir()
    writer = SegmentWriter(segments, SegmentIdentity(5, "another boot", os.getpid(), 1, "n"))
    writer.write(frames.encode(frames.STARTED, b'{"key":"old.0.1"}', 1))
    os.close(writer.fd)
    (sockets / "shim-5.sock").touch()
    async with bench.runner() as runner:
        fates = await recover(runner, [])
        assert fates == {}
        assert not list(segments.iterdir())
        assert not list(sockets.iterdir())
        await bench.end_all(runner)


async def test_closing_without_stopping_lets_attempts_run(bench: Bench) -> None:
    """SIGTERM to an agent is not the end of its jobs; idle shims go, busy ones stay."""
    async with bench.runner() as first:
        first.start(bench.order("idle", ("true",)))
        await bench.ended("idle")
        await started(bench, first, "a", ("sleep", "60"))
    assert len(bench.living()) == 1
    async with bench.runner() as second:
        fates = await recover(second, [bench.key("a")])
        assert fates[bench.key("a")].fate is Fate.RUNNING
        await bench.end_all(second)


async def test_closing_with_stopping_ends_everything_with_cause_drain(bench: Bench) -> None:
    """Each attempt has its end and its receipt before `close` returns."""
    async with bench.runner() as runner:
        for number in range(3):
            await started(bench, runner, f"n{number}", sh("sleep 60 & wait"))
        await runner.close(stop_jobs=True)
        for number in range(3):
            (ended,) = bench.ends(f"n{number}")
            assert (ended.cause, ended.signal) == (Cause.DRAIN, "SIGTERM")
    assert bench.living() == []


@pytest.mark.parametrize("seed", range(3))
async def test_agents_killed_at_any_moment_lose_and_repeat_nothing(bench: Bench, seed: int) -> None:
    """Short jobs over a row of crashing agents: each ran at most once, and exactly once unless proved never to run."""
    keys: list[str] = []
    truth: dict[str, Fate | Ended] = {}
    for life in range(4):
        runner = await bench.runner().__aenter__()
        open_keys = [key for key in keys if key not in truth]
        for key, found in (await recover(runner, open_keys)).items():
            if found.fate in (Fate.ENDED, Fate.NEVER_RAN):
                truth[key] = found.ended or found.fate
        for number in range(12):
            name = f"s{seed}-l{life}-n{number}"
            keys.append(bench.key(name))
            runner.start(bench.order(name, sh(f"echo {name} >> ran; sleep 0.0{number % 4}")))
        await asyncio.sleep(0.01 * (seed + 1) * (life + 1))
        await crash(runner)
        truth |= {e.key: e for e in bench.events if isinstance(e, Ended)}
        bench.events.clear()
    async with bench.runner() as last:
        for key, found in (await recover(last, [key for key in keys if key not in truth])).items():
            if found.fate is not Fate.RUNNING:
                truth[key] = found.ended or found.fate
        await eventually(lambda: not last.running(), "the last ones to end")
        truth |= {e.key: e for e in bench.events if isinstance(e, Ended)}
        await bench.end_all(last)

    ran = (bench.place / "ran").read_text().split()
    assert len(ran) == len(set(ran))
    assert set(truth) == set(keys)
    for key, fate in truth.items():
        name = key.removeprefix(bench.prefix + "-").removesuffix(".0.1")
        assert (name in ran) == isinstance(fate, Ended), (key, fate)
        assert not isinstance(fate, Ended) or fate.exit_code == 0
