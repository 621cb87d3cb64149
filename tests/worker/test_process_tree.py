"""The escape zoo: whatever a program does, a stop ends its whole tree and the receipt says how.

Each program runs with a version 2 cgroup, with a version 1 freezer, and with parent links alone.
Where a kernel lacks one of them, the shim falls back to the next, and the promise is the same.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator

import pytest

from tests.worker.real_runner import Bench, eventually, python, sh, streams, whole_ledger
from worker_agent import process_tree
from worker_agent.attempt_events import Started
from worker_agent.attempts import Cause, Order
from worker_agent.cgroups import Containment
from worker_agent.runner import Runner


@pytest.fixture(params=list(Containment))
async def contained(request: pytest.FixtureRequest, bench: Bench) -> AsyncIterator[Runner]:
    """A runner for each way to hold a tree."""
    async with bench.runner(containment=request.param) as runner:
        yield runner
        await bench.end_all(runner)


async def stopped(bench: Bench, runner: Runner, argv: tuple[str, ...], *, grace_s: float) -> None:
    """Start a nasty program that writes `up` when it is at its worst, stop it, and check that nothing is left."""
    runner.start(bench.order("a", argv))
    await bench.appears("up")
    assert runner.stop(bench.key("a"), grace_s=grace_s, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert bench.living() == []
    assert ended.cause is Cause.STOP
    assert ended.receipt.survivors == ()
    assert ended.receipt.signals[-1].processes >= 1
    runner.start(bench.order("next", sh("echo fine")))
    following = await bench.ended("next")
    assert streams(whole_ledger(runner, following.key))[0] == b"fine\n"


FORK_STORM = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open('up', 'w').write('up\\n')
import time
def storm(depth):
    for _ in range(35):  # some 1,200 processes in all: a storm, and not the end of the machine
        try:
            if os.fork() == 0:
                if depth: storm(depth - 1)
                while True: time.sleep(1)
        except OSError:
            pass
        time.sleep(0.002)
storm(1)
time.sleep(60)
"""
COMETS = """
import os, time
open('up', 'w').write('up\\n')
for _ in range(4):
    if os.fork() == 0:
        while True:
            if os.fork(): os._exit(0)
            os.setsid()
            time.sleep(0.0005)
time.sleep(60)
"""
DOUBLE_FORK = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.chdir('/')
        for fd in range(3): os.close(fd)
        time.sleep(60)
    os._exit(0)
os.wait()
open('up', 'w').write('up\\n')
time.sleep(60)
"""


@pytest.mark.parametrize("grace_s", [0.0, 0.1])
@pytest.mark.parametrize("code", [FORK_STORM, COMETS, DOUBLE_FORK], ids=["storm", "comets", "double-fork"])
async def test_a_tree_that_runs_away_is_ended(bench: Bench, contained: Runner, code: str, grace_s: float) -> None:
    """Forks that race the kill, sessions of their own, abandoned grandchildren: none is left."""
    await stopped(bench, contained, python(code), grace_s=grace_s)


async def test_a_stopped_process_is_ended(bench: Bench, contained: Runner) -> None:
    """It acts on SIGTERM only after the SIGCONT that follows."""
    code = "trap 'exit 9' TERM; echo up > up; kill -STOP $$; while :; do sleep 0.05; done"
    contained.start(bench.order("a", sh(code)))
    await bench.appears("up")
    contained.stop(bench.key("a"), grace_s=10, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert ended.exit_code == 9
    assert [each.signal for each in ended.receipt.signals] == ["SIGTERM", "SIGCONT"]


async def test_who_ignores_sigterm_is_killed_after_the_grace(bench: Bench, contained: Runner) -> None:
    """The receipt tells both signals, their times and the processes by name."""
    contained.start(bench.order("a", sh("trap '' TERM; sleep 60 & echo up > up; wait")))
    await bench.appears("up")
    contained.stop(bench.key("a"), grace_s=0.3, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert ended.signal == "SIGKILL"
    sent = {each.signal: each for each in ended.receipt.signals}
    assert list(sent) == ["SIGTERM", "SIGCONT", "SIGKILL"]
    assert sent["SIGKILL"].at_us - sent["SIGTERM"].at_us >= 300_000
    assert {each.name for each in ended.receipt.ended} == {"sh", "sleep"}
    assert ended.receipt.verified_at_us >= sent["SIGKILL"].at_us
    assert ended.receipt.verified_by.startswith("wait")
    assert ended.evidence == "stopped on request: we sent SIGTERM, SIGCONT, SIGKILL; the program ended by SIGKILL"


async def test_a_grace_of_zero_sends_no_sigterm(bench: Bench, runner: Runner) -> None:
    """A program that would act on SIGTERM does not get it."""
    runner.start(bench.order("a", sh("trap 'echo term > term' TERM; echo up > up; while :; do sleep 0.05; done")))
    await bench.appears("up")
    runner.stop(bench.key("a"), grace_s=0, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert [each.signal for each in ended.receipt.signals] == ["SIGKILL"]
    assert not (bench.place / "term").exists()


async def test_a_second_stop_shortens_the_patience(bench: Bench, runner: Runner) -> None:
    """As the second Ctrl-C does; a longer patience changes nothing."""
    runner.start(bench.order("a", sh("trap '' TERM; echo up > up; while :; do sleep 0.05; done")))
    await bench.appears("up")
    runner.stop(bench.key("a"), grace_s=60, cause=Cause.STOP)
    began = time.monotonic()
    runner.stop(bench.key("a"), grace_s=0, cause=Cause.DRAIN)
    runner.stop(bench.key("a"), grace_s=90, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert time.monotonic() - began < 10
    assert ended.cause is Cause.STOP


async def test_the_time_limit_ends_the_tree(bench: Bench, contained: Runner) -> None:
    """Enforced by the shim, with the order's own grace."""
    code = "trap '' TERM; sleep 60 & wait; sleep 60"
    contained.start(bench.order("a", sh(code), timeout_s=0.2, grace_s=0.2))

    ended = await bench.ended("a")

    assert (ended.cause, ended.signal) == (Cause.TIMEOUT, "SIGKILL")
    assert ended.evidence.startswith("the time limit was reached")


async def test_a_program_that_ends_in_time_after_sigterm_keeps_its_exit_code(bench: Bench, runner: Runner) -> None:
    """The cause is the stop, because the signal came first; the code is still the program's."""
    runner.start(bench.order("a", sh("trap 'exit 3' TERM; echo up > up; while :; do sleep 0.02; done")))
    await bench.appears("up")
    runner.stop(bench.key("a"), grace_s=10, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code, ended.signal) == (Cause.STOP, 3, "")


async def test_leftovers_are_ended_after_the_main_process(bench: Bench, contained: Runner) -> None:
    """A daemon that ignores SIGTERM and holds stdout: the exit stays the program's own, and nothing waits for EOF."""
    code = "(trap '' TERM; echo up > up; exec sleep 60) & while [ ! -e up ]; do sleep 0.01; done; echo said; exit 4"
    contained.start(bench.order("a", sh(code)))

    ended = await bench.ended("a")

    assert bench.living() == []
    assert (ended.cause, ended.exit_code) == (Cause.EXIT, 4)
    assert "1 process it had left behind ended by us" in ended.evidence
    assert [each.signal for each in ended.receipt.signals] == ["SIGTERM", "SIGCONT", "SIGKILL"]
    assert streams(whole_ledger(contained, ended.key))[0] == b"said\n"


async def test_leftovers_are_waited_for_when_the_order_says_so(bench: Bench, runner: Runner) -> None:
    """Their output belongs to the attempt; the exit code is that of the main process."""
    runner.start(bench.order("a", sh("(sleep 0.3; echo late) & echo early; exit 5"), leftovers_wait=True))

    ended = await bench.ended("a")

    assert (ended.exit_code, ended.receipt.signals) == (5, ())
    assert streams(whole_ledger(runner, ended.key))[0] == b"early\nlate\n"


async def test_waiting_for_leftovers_ends_at_the_time_limit(bench: Bench, runner: Runner) -> None:
    """The job as the user asked for it was not over."""
    runner.start(bench.order("a", sh("sleep 60 & exit 0"), leftovers_wait=True, timeout_s=0.3, grace_s=0.2))
    ended = await bench.ended("a")
    assert (ended.cause, ended.exit_code) == (Cause.TIMEOUT, 0)
    assert bench.living() == []


async def test_a_foreign_holder_of_the_pipe_blocks_nothing(bench: Bench, runner: Runner) -> None:
    """A process that is not of the tree holds stdout and writes for ever; the attempt still ends."""
    runner.start(bench.order("a", sh("echo mine; echo up > up; exec sleep 60")))
    await bench.appears("up")
    started = await eventually(lambda: next((e for e in bench.events if isinstance(e, Started)), None), "start")
    holder = subprocess.Popen(  # noqa: ASYNC220 - a vfork; its end is waited for below
        ["/bin/sh", "-c", f"exec > /proc/{started.pid}/fd/1; echo open > open; trap '' PIPE; while :; do echo x; done"],
        cwd=bench.place,
        stderr=subprocess.DEVNULL,
    )
    try:
        await bench.appears("open")
        runner.stop(bench.key("a"), grace_s=5, cause=Cause.STOP)
        ended = await bench.ended("a")
        assert holder.poll() is None
        assert streams(whole_ledger(runner, ended.key))[0].startswith(b"mine\n")
    finally:
        holder.kill()
        holder.wait()


async def test_a_process_that_left_the_cgroup_is_ended_too(bench: Bench, runner: Runner) -> None:
    """Root can move itself out; it is still a descendant of the shim."""
    code = (
        "import os, time\n"
        "roots = [l.split()[4] for l in open('/proc/self/mountinfo') if ' - cgroup2 ' in l]\n"
        "for root in roots: open(root + '/cgroup.procs', 'w').write('0')\n"
        "open('up', 'w').write('up\\n')\n"
        "time.sleep(60)\n"
    )
    await stopped(bench, runner, python(code), grace_s=0)


async def test_a_tree_of_fifty_is_ended_at_once(bench: Bench, contained: Runner) -> None:
    """SIGTERM reaches every process, and the receipt counts them."""
    code = "i=0; while [ $i -lt 49 ]; do sleep 60 & i=$((i+1)); done; echo up > up; wait"
    contained.start(bench.order("a", sh(code)))
    await bench.appears("up")
    contained.stop(bench.key("a"), grace_s=10, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert ended.receipt.signals[0].processes == 50
    assert len(ended.receipt.ended) == 50


async def test_a_pid_is_signalled_only_while_it_is_a_member() -> None:
    """`send` asks again once the pidfd holds the process; a stranger is left alone."""
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        assert not process_tree.send(stranger.pid, signal.SIGKILL, lambda pid: False)
        stat = process_tree.read_stat(stranger.pid)
        assert stat is not None
        assert stat.state != "Z"
        assert process_tree.is_alive(stranger.pid, stat.start_ticks)
        assert not process_tree.is_alive(stranger.pid, stat.start_ticks + 1)
    finally:
        stranger.kill()
        await stranger.wait()


async def test_descendants_are_found_with_and_without_the_children_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels without it are scanned instead; both see the same tree."""
    shell = await asyncio.create_subprocess_exec("/bin/sh", "-c", "sleep 60 & sleep 60 & wait", start_new_session=True)
    try:
        await eventually(lambda: len(process_tree.descendants(shell.pid)) == 2, "two children")
        quick = set(process_tree.descendants(shell.pid))
        monkeypatch.setattr(os.path, "exists", lambda path: False)
        assert set(process_tree.descendants(shell.pid)) == quick
    finally:
        monkeypatch.undo()
        os.killpg(shell.pid, signal.SIGKILL)
        await shell.wait()


def test_a_search_in_an_odd_path_gives_a_usable_name(bench: Bench) -> None:
    """An empty entry of PATH is the directory of the program, as execvp has it."""
    (bench.place / "tool").write_text("#!/bin/sh\nexit 0\n")
    (bench.place / "tool").chmod(0o755)
    order = Order(key="k.0.1", argv=("tool",), cwd=str(bench.place))
    home = os.open(".", os.O_PATH)
    null = os.open("/dev/null", os.O_RDWR)
    pid = process_tree.spawn(order, {b"PATH": b":/nope"}, home, stdin=null, stdout=null, stderr=null)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(process_tree.SpawnFailed, match="not found"):
        process_tree.spawn(order, {b"PATH": b"/nope"}, home, stdin=null, stdout=null, stderr=null)
    os.close(home)
    os.close(null)
