"""Short programs queue in warm shims: each runs once and in its turn, or is given back, whoever is killed."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.test_recovery import crash
from tests.worker.test_shim import OneShim, one, run_all
from worker_agent import agent as agent_module
from worker_agent.agent import Agent
from worker_agent.attempt_events import NeverRan
from worker_agent.attempts import Cause, Ended, Exited, Order
from worker_agent.journal import Journal
from worker_agent.ledger import scan_segment
from worker_agent.order_queues import OrderQueues
from worker_agent.process_tree import boot_id
from worker_agent.recovery import Recovered, recover
from worker_agent.reports import Assignments, Held, HeldState, StartCommand
from worker_agent.runner import Runner
from worker_agent.shim_link import ShimLink
from worker_agent.shim_protocol import QUEUE_MAX, QUEUE_MAX_FIRST, encode, encode_orders
from worker_agent.workspaces import Workspaces

__all__ = ["one"]  # a fixture


class Desk:
    """An agent without a coordinator: what it is told to start, and what became of it."""

    def __init__(self, bench: Bench, agent: Agent, runner: Runner) -> None:
        self.bench, self.agent, self.runner = bench, agent, runner
        self.ran = bench.place / "ran"

    def start(self, *named: tuple[str, str]) -> None:
        """Let the agent start a list of (name, shell snippet); each first notes its name in the file `ran`."""
        orders = [self.bench.order(name, sh(f"echo {name} >> ran; {code}")) for name, code in named]
        first = self.agent.journal.mark + 1
        self.agent.on_starts([StartCommand(first + at, order, 1, b"") for at, order in enumerate(orders)])

    def held(self, name: str) -> Held:
        """Return what the agent holds of an attempt."""
        return self.agent.assignments.held[self.bench.key(name)]

    async def over(self, *names: str) -> None:
        """Wait until attempts have ended or are proved never to have run."""
        await eventually(lambda: all(self.held(n).state is HeldState.ENDED for n in names), f"the end of {names}")

    def lines(self) -> list[str]:
        """Return the names of the programs that ran, in the order of their starts."""
        return self.ran.read_text().split() if self.ran.exists() else []

    def exit_code(self, name: str) -> int | None:
        """Return how an attempt ended; fails when it has not."""
        ended = self.held(name).ended
        assert ended is not None
        return ended.exit_code


@asynccontextmanager
async def desk(bench: Bench, slots: int, *, crashes: bool = False) -> AsyncIterator[Desk]:
    """An agent with as many warm shims as slots, behind each of which a full queue may wait from the beginning."""
    journal = Journal.open(bench.place / "worker", boot_id())
    agent = Agent(journal, slots)
    runner = bench.runner(slots=slots, on_event=agent.on_event)
    await runner.__aenter__()
    crashed = False
    try:
        await agent.recover(runner, Workspaces(bench.place / "worker", address="unix:/nowhere", owner=agent))
        made = Desk(bench, agent, runner)
        warm = [f"warm{bench.generation}-{number}" for number in range(slots)]
        made.start(*[(name, "sleep 0.1") for name in warm])
        await made.over(*warm)
        for link in runner._links.values():
            link.queue_max = QUEUE_MAX
        made.ran.write_text("".join(f"{line}\n" for line in made.lines() if not line.startswith("warm")))
        yield made
        crashed = crashes
    finally:
        await (crash(runner) if crashed else bench.end_all(runner))
        journal.close()


async def test_no_more_programs_run_at_once_than_there_are_slots(bench: Bench) -> None:
    """Sixty short ones queue in two shims: each runs once, never three at a time, and no further shim is made."""
    async with desk(bench, 2) as made:
        names = [f"n{number}" for number in range(60)]
        made.start(*[(name, f"echo {name} >> over") for name in names])
        assert made.runner.queues.queued == 2 * QUEUE_MAX
        await made.over(*names)
        assert sorted(made.lines()) == sorted(names)
        assert {made.exit_code(name) for name in names} == {0}
        assert len(made.runner._links) == 2
        assert (made.runner.queues.queued, made.agent.assignments.slots_used) == (0, 0)
        ends = [end for end in (made.held(name).ended for name in names) if end is not None]
        assert max(sum(e.started_at_us < at.started_at_us <= e.ended_at_us for e in ends) for at in ends) < 2


async def test_the_slot_of_an_attempt_that_is_proved_never_to_have_run_is_for_the_next(bench: Bench) -> None:
    """What waits begins at once, and not with the next word of the coordinator."""
    async with desk(bench, 1) as made:
        unknown = bench.key("unknown")
        made.agent.assignments.adopt(unknown, running=True, ended=None)
        made.agent.on_verdict(unknown, "keep", 1)
        made.start(("next", ""))
        assert made.held("next").state is HeldState.WAITING

        made.agent.on_event(NeverRan(unknown))

        await made.over("next")
        assert made.lines() == ["next"]


async def test_orders_behind_a_longer_program_come_back_and_run_later_in_order(bench: Bench) -> None:
    """They wait for a slot in the agent, where another shim or another worker could have them."""
    async with desk(bench, 1) as made:
        names = ["a", "b", "c"]
        made.start(("long", "while [ ! -e go ]; do sleep 0.01; done"), *[(name, "") for name in names])
        assert made.runner.queues.queued == 3
        await eventually(lambda: not made.runner.queues.queued, "the orders to come back")
        assert [made.held(name).state for name in names] == [HeldState.WAITING] * 3
        assert made.held("long").state is HeldState.RUNNING
        (bench.place / "go").touch()
        await made.over("long", *names)
        assert made.lines() == ["long", *names]


async def test_a_queued_order_is_stopped_without_ever_running(bench: Bench) -> None:
    """The proof comes from the shim; the one before it and the one behind it are not touched."""
    async with desk(bench, 1) as made:
        made.start(("a", "sleep 0.05; exit 3"), ("b", ""), ("c", ""))
        made.agent.on_stop(bench.key("b"), 0, 10.0)
        await made.over("a", "b", "c")
        assert made.held("b").never_ran
        assert made.lines() == ["a", "c"]
        assert (made.exit_code("a"), made.exit_code("c")) == (3, 0)


async def test_what_takes_two_slots_or_none_or_is_fed_never_waits_behind_another(bench: Bench) -> None:
    """Only attempts of one slot without standard input queue."""
    async with desk(bench, 1) as made:
        sequence = made.agent.journal.mark
        orders = [bench.order(name, sh(f"echo {name} >> ran"), stdin=name == "fed") for name in ("a", "free", "fed")]
        made.agent.on_starts(
            [StartCommand(sequence + 1 + at, order, order is not orders[1], b"") for at, order in enumerate(orders)]
        )
        assert made.runner.queues.queued == 0
        assert made.held("fed").state is HeldState.WAITING
        await made.over("a", "free", "fed")
        assert sorted(made.lines()) == ["a", "fed", "free"]


async def test_a_shim_that_dies_before_it_reads_its_orders_costs_nothing(bench: Bench) -> None:
    """No `started` frame and a dead shim: all of them run on another, once, in order."""
    async with desk(bench, 1) as made:
        (link,) = made.runner._links.values()
        os.kill(link.pid, signal.SIGSTOP)
        made.start(("a", ""), ("b", ""), ("c", ""))
        assert made.runner.queues.queued == 2
        await asyncio.sleep(0)  # the orders are sent at the end of this turn
        os.kill(link.pid, signal.SIGKILL)
        await made.over("a", "b", "c")
        assert made.lines() == ["a", "b", "c"]
        assert [made.exit_code(name) for name in ("a", "b", "c")] == [0, 0, 0]


async def test_a_shim_that_is_killed_while_orders_wait_loses_only_what_ran(bench: Bench) -> None:
    """The program that ran is lost with evidence; those behind it run elsewhere, once."""
    async with desk(bench, 1) as made:
        made.start(("first", ""), ("killer", "kill -9 $PPID; sleep 60"), ("b", ""), ("c", ""))
        await made.over("first", "killer", "b", "c")
        ended = made.held("killer").ended
        assert isinstance(ended, Ended)
        assert ended.cause is Cause.SUPERVISOR_DIED
        assert made.lines() == ["first", "killer", "b", "c"]
        assert [made.exit_code(name) for name in ("first", "b", "c")] == [0, 0, 0]


async def test_a_connection_that_breaks_loses_no_order_and_no_end(bench: Bench) -> None:
    """The shim drops what waits; the agent learns from its state how the others ended, and starts again."""
    async with desk(bench, 1) as made:
        names = [f"n{number}" for number in range(6)]
        (link,) = made.runner._links.values()
        made.start(*[(name, "") for name in names])
        for pause_s in (0.0, 0.004, 0.008):
            await asyncio.sleep(pause_s)
            if link._protocol is not None:
                link._protocol.abort()
        await made.over(*names)
        assert made.lines() == names
        assert {made.exit_code(name) for name in names} == {0}


@pytest.mark.parametrize("seed", range(4))
async def test_agents_killed_with_full_queues_lose_and_repeat_nothing(bench: Bench, seed: int) -> None:
    """Each program ran at most once; the last agent knows the end of each that ran, and that the others did not."""
    names: list[str] = []
    for life in range(4):
        async with desk(bench, 2, crashes=True) as made:
            fresh = [f"l{life}-n{number}" for number in range(20)]
            names += fresh
            made.start(*[(name, f"sleep 0.00{number % 3}") for number, name in enumerate(fresh)])
            assert made.runner.queues.queued
            await asyncio.sleep(0.004 * (seed * 4 + life))
    async with desk(bench, 2) as last:
        await last.over(*names)
        ran = last.lines()
        assert len(ran) == len(set(ran))
        for name in names:
            held = last.held(name)
            assert (name in ran) == (held.ended is not None) == (not held.never_ran), name
            assert held.ended is None or held.ended.exit_code == 0


async def test_an_end_that_comes_during_recovery_is_not_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program ends after its shim has said that it runs, and before the agent holds what it has found."""
    async with desk(bench, 1, crashes=True) as first:
        first.start(("a", "while [ ! -e go ]; do sleep 0.01; done; exit 4"))
        await eventually(lambda: first.held("a").started_at_us, "the start")

    async def late(runner: Runner, open_keys: Collection[str]) -> dict[str, Recovered]:
        fates = await recover(runner, open_keys)
        (bench.place / "go").touch()
        await eventually(lambda: not runner.running(), "the end to be told")
        return fates

    monkeypatch.setattr(agent_module, "recover", late)
    async with desk(bench, 1) as second:
        await second.over("a")
        assert second.exit_code("a") == 4


def test_ends_that_never_arrived_are_told_again(one: OneShim) -> None:
    """As many as an agent can have on the way: a queue and the one before it."""
    agent, _ = one.agent(1)
    keys = [f"k{number}.0.1" for number in range(QUEUE_MAX + 1)]
    segment = one.place / "segments/shim-1.1.segment"
    for number, key in enumerate(keys):
        run_all(agent, [Order(key=key, argv=("true",))])
        until = time.monotonic() + 10
        while sum(record.exited for record in scan_segment(segment).attempts) <= number:
            assert time.monotonic() < until, f"{key} did not end"
            time.sleep(0.002)
    _, state = one.agent(1)
    assert [Ended.from_json(each).key for each in state["ended"]] == keys


def test_a_shim_says_how_many_orders_it_takes(one: OneShim) -> None:
    """One of an earlier version, which does not, is sent no more than that took."""
    _, state = one.agent(1)
    assert state["queue_max"] == QUEUE_MAX
    queues, link = OrderQueues(), _link(1)
    for _ in range(10):
        queues.ran(link)
    assert link.queue_max == QUEUE_MAX_FIRST


def test_a_shim_runs_its_orders_one_after_another(one: OneShim) -> None:
    """In the order in which they came; what comes back is sent again."""
    agent, _ = one.agent(1)
    orders = {
        f"{name}.0.1": Order(key=f"{name}.0.1", argv=("/bin/sh", "-c", f"echo {name} >> {one.place}/ran"))
        for name in "abcdefgh"
    }
    run_all(agent, list(orders.values()))
    ends: list[str] = []
    while len(ends) < len(orders):
        message = agent.hear("ended", "returned")
        if message["type"] == "returned":
            run_all(agent, [orders[key] for key in message["keys"]])
        else:
            ends += [Exited(*each).key for each in message["ended"]]
    assert ends == list(orders)
    assert (one.place / "ran").read_text().split() == list("abcdefgh")


def test_more_orders_than_a_queue_holds_are_refused(one: OneShim) -> None:
    """The agent never sends so many: its connection is closed, and none of them runs."""
    agent, _ = one.agent(1)
    run_all(agent, [Order(key=f"k{n}.0.1", argv=("touch", f"{one.place}/ran")) for n in range(QUEUE_MAX + 2)])
    assert agent.is_closed()
    _, state = one.agent(1)
    assert (state["key"], state["ended"]) == (None, [])
    assert not (one.place / "ran").exists()


def test_an_agent_that_leaves_takes_its_queue_with_it_and_no_end_is_lost(one: OneShim) -> None:
    """What had begun is told to the next agent and is in the segment; what waited never runs."""
    agent, _ = one.agent(1)
    note = f"echo $HOSTLER_ATTEMPT >> {one.place}/ran"
    orders = [Order(key=f"{name}.0.1", argv=("/bin/sh", "-c", note)) for name in "ab"]
    orders += [Order(key="c.0.1", argv=("/bin/sh", "-c", f"{note}; exec sleep 60"))]
    orders += [Order(key="d.0.1", argv=("/bin/sh", "-c", note))]
    run_all(agent, orders)
    agent.sock.close()

    _, state = one.agent(2)

    begun = [Ended.from_json(each).key for each in state["ended"]] + ([state["key"]] if state["key"] else [])
    assert begun == [order.key for order in orders][: len(begun)]
    records = scan_segment(one.place / "segments/shim-1.1.segment").attempts
    assert [record.key for record in records] == begun
    assert "d.0.1" not in begun


def test_retiring_gives_the_queue_back(one: OneShim) -> None:
    """An agent retires only idle shims; should it not, nothing is lost."""
    agent, _ = one.agent(1)
    orders = [Order(key=f"{name}.0.1", argv=("sleep", "0.05")) for name in "ab"]
    agent.sock.sendall(encode_orders(orders) + encode({"type": "retire"}))
    assert agent.hear("returned")["keys"] == ["b.0.1"]
    assert agent.hear_end().key == "a.0.1"
    one.wait_for_end()


def _link(shim: int) -> ShimLink:
    return ShimLink(shim=shim, pid=1, start_ticks=1, nonce="", path=Path("/nowhere"))


def test_queues_grow_with_short_attempts_and_shrink_with_long_ones() -> None:
    """0, 1, 2, 4, 8 and no more; half after each that runs long, and none while it runs."""
    queues, link = OrderQueues(), _link(1)
    queues.add(link, "a", leads=True)
    assert queues.shortest() is None
    depths = []
    for _ in range(5):
        queues.ran(link)
        depths.append(link.queue_max)
    assert depths == [1, 2, 4, 8, 8]
    assert queues.shortest() is link
    queues.runs_long(link)
    assert (link.queue_max, queues.shortest()) == (4, None)
    queues.ran(link)
    assert (link.queue_max, queues.shortest()) == (4, link)


def test_the_shortest_queue_is_next_and_those_that_wait_are_counted() -> None:
    """The count is what the slots are measured with."""
    queues, links = OrderQueues(), [_link(1), _link(2)]
    for link in links:
        link.queue_max = QUEUE_MAX
        queues.add(link, f"head{link.shim}", leads=True)
    for name in "abc":
        found = queues.shortest()
        assert found is not None
        queues.add(found, name, leads=True)
    assert ([len(link.orders) for link in links], queues.queued) == ([3, 2], 3)
    assert not queues.remove(links[0], ["head1", "unknown"])
    assert queues.queued == 2
    assert queues.remove(links[0], list(links[0].orders))
    assert not queues.remove(links[0], ["a"])
    assert queues.queued == 1
    queues.close(links[1])
    assert queues.shortest() is None


def test_what_came_back_is_the_next_to_start_and_a_stopped_one_never_starts() -> None:
    """The slots are free again, and the order is there again."""
    assignments = Assignments(2)
    orders = [Order(key=f"{name}.0.1", argv=("true",)) for name in "abc"]
    for sequence, order in enumerate(orders):
        assignments.accept(StartCommand(sequence, order, 1, b""))
    for order in orders:
        held = assignments.next_waiting()
        assert held is not None
        assert (held.order, assignments.has_room(held, 0)) == (order, order is not orders[2])
        assert assignments.has_room(held, 1)
        assignments.start(held)
    assert (assignments.slots_used, assignments.next_waiting()) == (3, None)
    assignments.stop("c.0.1")
    for order in reversed(orders[1:]):
        assignments.returned(order)
    assert assignments.slots_used == 1
    again = assignments.next_waiting()
    assert again is not None
    assert (again.key, again.order) == ("b.0.1", orders[1])
    assert assignments.held["c.0.1"].never_ran
    assert assignments.waiting() == ["b.0.1"]
