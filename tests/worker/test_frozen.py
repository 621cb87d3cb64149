"""A job that runs as root can freeze the cgroup it shares with its shim: the agent, which is outside, lets it go on."""

from pathlib import Path

import pytest

from tests.worker.real_runner import Bench, eventually, python
from tests.worker.test_recovery import crash, shim_of
from worker_agent import shim_link
from worker_agent.attempt_events import Started
from worker_agent.attempts import Cause, Order
from worker_agent.cgroups import Containment
from worker_agent.recovery import Fate, recover
from worker_agent.runner import Runner

# Says so and freezes everything in its own cgroup; with an argument, from outside and for ever.
FREEZE = """
import os, sys, time
version2, directory = "", ""
for line in open("/proc/self/cgroup"):
    number, controllers, path = line.rstrip("\\n").split(":", 2)
    if "/hostler-" in path:
        version2, inside = not controllers, path
for line in open("/proc/self/mountinfo"):
    fields = line.split()
    kind = fields[fields.index("-") + 1]
    if kind == "cgroup2" if version2 else kind == "cgroup" and "freezer" in fields[-1].split(","):
        directory = fields[4] + inside
        break
name, text = ("cgroup.freeze", "1") if version2 else ("freezer.state", "FROZEN")
def freeze():
    fd = os.open(directory + "/" + name, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)
open("ready", "w").write("\\n")
while not os.path.exists("go"):
    time.sleep(0.01)
if len(sys.argv) > 1 and os.fork() == 0:
    with open(os.path.dirname(directory) + "/cgroup.procs", "w") as file:
        file.write("0")
    while True:
        freeze()
else:
    freeze()
time.sleep(60)
"""


def freezer(bench: Bench, *arguments: str, **options: object) -> Order:
    """The order of a program that freezes its cgroup when it is told to."""
    return bench.order("a", (*python(FREEZE), *arguments), **options)


async def freeze(bench: Bench, runner: Runner, order: Order) -> int:
    """Start the program and let it freeze its cgroup; return its shim's pid once that is so."""
    runner.start(order)
    await bench.appears("ready")
    await eventually(lambda: any(isinstance(e, Started) for e in bench.events), "the start to be told")
    (link,) = (link for link in runner._links.values() if link.orders)
    assert link.cgroup is not None
    state = Path(link.cgroup.directory, "freezer.state" if link.cgroup.freezer else "cgroup.freeze")
    (bench.place / "go").touch()
    await eventually(lambda: state.read_text().startswith(("F", "1")), "the cgroup to be frozen")
    return shim_of(bench, "a")


@pytest.mark.parametrize("containment", [Containment.AUTO, Containment.FREEZER])
async def test_a_stop_thaws_what_a_job_has_frozen(
    bench: Bench, containment: Containment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is carried out as any other, and the shim is used again."""
    monkeypatch.setattr(shim_link, "THAW_S", 60.0)
    async with bench.runner(containment=containment) as runner:
        await freeze(bench, runner, freezer(bench))

        runner.stop(bench.key("a"), grace_s=5, cause=Cause.STOP)
        ended = await bench.ended("a", within_s=15)

        assert (ended.cause, ended.signal) == (Cause.STOP, "SIGTERM")
        runner.start(bench.order("b", ("true",)))
        assert (await bench.ended("b")).exit_code == 0
        await bench.end_all(runner)


@pytest.mark.parametrize("containment", [Containment.AUTO, Containment.FREEZER])
async def test_a_time_limit_holds_also_for_who_freezes_its_shim(bench: Bench, containment: Containment) -> None:
    """Nobody asks for anything: the agent looks by itself."""
    async with bench.runner(containment=containment) as runner:
        await freeze(bench, runner, freezer(bench, timeout_s=3.0))

        assert (await bench.ended("a", within_s=20)).cause is Cause.TIMEOUT
        await bench.end_all(runner)


async def test_who_freezes_its_shim_again_and_again_is_killed_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From outside of the cgroup it is faster than any thaw: nothing of it is left all the same."""
    monkeypatch.setattr(shim_link, "FROZEN_MAX", 2)
    async with bench.runner() as runner:
        await freeze(bench, runner, freezer(bench, "again"))

        runner.stop(bench.key("a"), grace_s=0, cause=Cause.STOP)
        ended = await bench.ended("a", within_s=20)

        # Whoever was faster: the shim, thawed for a moment, or the agent that killed it.
        assert ended.cause in (Cause.STOP, Cause.SUPERVISOR_DIED)
        assert not bench.living()
        await bench.end_all(runner)


async def test_the_next_agent_thaws_and_adopts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen shim would be silent for ever."""
    monkeypatch.setattr(shim_link, "THAW_S", 60.0)
    first = await bench.runner().__aenter__()
    await freeze(bench, first, freezer(bench))
    await crash(first)
    async with bench.runner() as second:
        fates = await recover(second, [bench.key("a")])
        assert fates[bench.key("a")].fate is Fate.RUNNING
        await bench.end_all(second)
