"""What goes wrong: processes killed and paused, hosts without power, links cut, slow or silent, disks full."""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.host import SimulatedHost
from tests.simulation.network import DOWN, UP, Connection

if TYPE_CHECKING:
    from tests.simulation.nodes import AgentNode, Node
    from tests.simulation.world import World

PAUSE_S = (0.5, 30.0)


class Faults:
    """Lets things go wrong until it is told to stop; what it broke it can put right."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.chance: random.Random = world.chance
        self.kinds: list[tuple[float, Callable[[], None]]] = [
            (3.0, self._kill_agent),
            (1.0, self._end_agent),
            (2.0, self._kill_coordinator),
            (1.0, self._crash_host),
            (1.5, self._pause_agent),
            (1.0, self._pause_coordinator),
            (0.7, self._pause_shim),
            (2.0, self._cut),
            (3.0, self._silence),
            (1.0, self._slow_link),
            (1.0, self._kill_shim),
            (0.7, self._drop_local),
            (0.7, self._doom),
            (1.5, self._store_full),
            (0.7, self._store_broken),
            (1.0, self._slow_commits),
            (1.0, self._log_disk_full),
            (0.5, self._journal_full),
            (0.4, self._second_coordinator),
            (0.5, self._disk_short),
            (1.0, self._copy),
            (3.0, self._say_again),
        ]

    async def run(self, until: float) -> None:
        """Break something now and then, sometimes several things at once."""
        kinds = [kind for _, kind in self.kinds]
        weights = [weight * self.chance.choice((0.2, 1.0, 1.0, 3.0)) for weight, _ in self.kinds]
        if self.world.kind == "losses":
            cutting = (self._silence, self._pause_agent)
            weights = [3 * weight if kind in cutting else weight for weight, kind in zip(weights, kinds, strict=True)]
        pace_s = self.chance.choice((1.5, 3.0, 6.0))
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / pace_s))
            if self.world.loop.now >= until:
                return
            for kind in self.chance.choices(kinds, weights, k=self.chance.choice((1, 1, 1, 2, 3))):
                self.world.note("fault", kind.__name__)
                kind()

    def strike(self, tries: int = 400) -> None:
        """Break something as soon as attempts wait in a shim behind others."""
        if self.world.healed or not tries:
            return
        busy = [a for a in self.world.everyone if a.runs and a.runner is not None and a.runner.queues.queued > 1]
        if not busy:
            self.world.loop.call_as(None, 0.005, self.strike, tries - 1)
            return
        agent = self.chance.choice(busy)
        shim = self.chance.choice(list(agent.host.shims.values()) or [None])
        kind = self.chance.choice(("kill", "pause and kill", "pause and kill", "drop", "end", "shim"))
        self.world.note("fault", "strike", kind)
        if kind == "end":
            agent.ask_to_end()
        elif kind == "drop":
            self._drop_local(agent)
        elif kind == "shim" and shim is not None:
            shim.die()
        else:
            if kind == "pause and kill" and shim is not None:
                self.world.loop.pause(shim.process)
                self._later(0.5, 12.0, lambda: self.world.loop.resume(shim.process))
            self.world.loop.call_as(None, self.chance.random() * 0.05, self._kill, agent)

    def _kill(self, agent: "AgentNode") -> None:
        agent.kill()
        self.world.agent_is_down(agent)

    def _drop_local(self, agent: "AgentNode | None" = None) -> None:
        """The connection between an agent and a shim breaks, and both live."""
        found = [t for a in ([agent] if agent else self.world.everyone) for t in a.host.transports if not t.closed]
        if found:
            transport = self.chance.choice(found)
            transport.far.arrive_later(b"")
            transport.lose()

    def _later(self, low_s: float, high_s: float, call: Callable[[], None]) -> None:
        self.world.loop.call_as(None, self.chance.uniform(low_s, high_s), call)

    def _agent(self) -> "AgentNode":
        return self.chance.choice(self.world.everyone)

    def _kill_agent(self) -> None:
        self._kill(self._agent())

    def _end_agent(self) -> None:
        self._agent().ask_to_end()

    def _kill_coordinator(self) -> None:
        self.world.coordinator.kill()
        self.world.coordinator_is_down()

    def _crash_host(self) -> None:
        agent = self._agent()
        here = [each for each in self.world.everyone if each.host is agent.host]
        for each in here:
            each.kill(silent=True)
            self.world.agent_is_down(each)
        agent.host.crash(*(each.worker_dir for each in here))
        for _ in range(3):
            self._later(1.0, 15.0, lambda: self._say_again(agent))

    def _pause(self, node: "Node") -> None:
        process = node.process
        if process is not None and process.alive and not process.paused:
            self.world.loop.pause(process)
            self.world.network.on_pause(process)
            self._later(*PAUSE_S, lambda: self.world.loop.resume(process))

    def _pause_agent(self) -> None:
        self._pause(self._agent())

    def _pause_coordinator(self) -> None:
        self._pause(self.world.coordinator)

    def _pause_shim(self) -> None:
        shims = [shim for shim in self.world.shims()]
        if shims:
            process = self.chance.choice(shims).process
            self.world.loop.pause(process)
            self._later(*PAUSE_S, lambda: self.world.loop.resume(process))

    def _connection(self) -> Connection | None:
        found = self.world.network.connections
        return self.chance.choice(found) if found else None

    def _cut(self) -> None:
        connection = self._connection()
        if connection is not None:
            connection.cut()

    def _silence(self) -> None:
        directions = self.chance.choice(((UP,), (DOWN,), (UP, DOWN)))
        if self.chance.random() < (0.2 if self.world.kind == "losses" else 0.5):
            connection = self._connection()
            if connection is not None:
                connection.silence(directions)
                self._later(0.5, 25.0, connection.heal)
            return
        # The whole worker cannot be reached, also not by a new connection.
        process = self._agent().process
        if process is not None and process.alive:
            network = self.world.network
            network.unreachable.add(process)
            connections = network.of(process)
            for each in connections:
                each.silence(directions)

            def heal() -> None:
                network.unreachable.discard(process)
                for each in connections:
                    each.heal()

            self._later(0.5, self.chance.choice((20.0, 60.0)), heal)

    def _slow_link(self) -> None:
        connection = self._connection()
        if connection is not None:
            connection.extra_s = self.chance.uniform(0.1, 4.0)

            def heal() -> None:
                connection.extra_s = 0.0

            self._later(1.0, 15.0, heal)

    def _kill_shim(self) -> None:
        shims = [shim for shim in self.world.shims()]
        if shims:
            shim = self.chance.choice(shims)
            self.world.note("shim.killed", shim.process.name)
            shim.die()

    def _doom(self) -> None:
        self.world.dooms.append(self.chance.choice(("before", "after")))

    def _store_full(self) -> None:
        self.world.store_full_until = self.world.loop.now + self.chance.uniform(0.1, 3.0)

    def _store_broken(self) -> None:
        self.world.breaks.append(self.chance.choice(("broken before", "broken after")))

    def _slow_commits(self) -> None:
        self.world.slow_until = self.world.loop.now + self.chance.uniform(1.0, 10.0)

    def _log_disk_full(self) -> None:
        self.world.log_disk_full = True

        def heal() -> None:
            self.world.log_disk_full = False

        self._later(0.5, 10.0, heal)

    def _journal_full(self) -> None:
        host = self._agent().host
        host.journal_full = True

        def heal() -> None:
            host.journal_full = False

        self._later(0.5, 10.0, heal)

    def _disk_short(self) -> None:
        host = self._agent().host
        host.disk_short = True

        def heal() -> None:
            host.disk_short = False

        self._later(0.5, 15.0, heal)

    def _copy(self) -> None:
        """A worker's directory is copied, and an agent begins on the copy, on the same host or on another one."""
        world = self.world
        agent = self.chance.choice(world.agents)
        if world.kind != "copies" or world.copies or not (agent.worker_dir / "worker.json").exists():
            return
        world.checker.losses.copy_made(agent.name)
        here = self.chance.random() < 0.5
        host = agent.host if here else SimulatedHost(world, f"{agent.name}-elsewhere", agent.name)
        copy = agent.copy(host, agent.directory.with_name(f"{agent.name}-copy"))
        copy.skew_us = agent.skew_us
        world.copies.append(copy)
        world.agent_is_down(copy)

    def _remove_copies(self) -> None:
        """Somebody has seen it: the copies are removed, with what they started."""
        copies, self.world.copies = self.world.copies, []
        for copy in copies:
            copy.kill()
            copy.host.remove(copy.directory)
            copy.is_removed = True

    def _say_again(self, node: "AgentNode | None" = None) -> None:
        """A stream says nothing twice; the rules hold all the same."""
        node = node or self._agent()
        if node.agent is not None and node.runs and node.process is not None and not node.process.paused:
            self.world.loop.call_as(node.process, 0.0, node.agent.hear_again)

    def _second_coordinator(self) -> None:
        """The coordinator hangs and is taken for dead; later it goes on beside the one that took its place.

        Not where jobs count on leases: those that still hear the older one go on with its leave.
        """
        node = self.world.coordinator
        process = node.process
        if process is None or not process.alive or process.paused or self.world.kind == "losses":
            return
        self.world.loop.pause(process)
        self.world.network.on_pause(process)
        node.start_beside()
        self._later(0.5, 20.0, lambda: self.world.loop.resume(process))
        # It ends by itself when it commits something; one that has nothing to commit is ended by somebody.
        self._later(20.0, 30.0, lambda: node.end_other(process))

    def heal(self) -> None:
        """Put everything right."""
        world = self.world
        world.store_full_until = world.slow_until = 0.0
        world.log_disk_full = False
        world.late_commands = 0.0
        world.dooms.clear()
        world.breaks.clear()
        world.network.unreachable.clear()
        for connection in list(world.network.connections):
            connection.extra_s = 0.0
            connection.heal()
        for process in world.processes():
            if process.paused:
                world.loop.resume(process)
        for agent in world.everyone:
            agent.host.journal_full = agent.host.disk_short = False
        self._remove_copies()
