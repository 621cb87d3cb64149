"""Runs a part of hostler so that it can be killed at a named moment, and with a wall clock that can be set.

    python -m tests.faults.failing DIRECTORY CLOCK MODULE [ARGUMENT...]

While a file DIRECTORY/NAME is there, the next process that comes to the point NAME removes it, notes itself in
DIRECTORY/fired and dies by SIGKILL. CLOCK is a file of eight bytes, the nanoseconds by which `time.time` is off; it
may be rewritten at any moment. Launcher and shims, which an agent starts, are reached by a changed start text.

The product has no switches for this: its functions are wrapped here, in the process that runs it.
Limits: standard library only, because the launcher imports it too.
"""

import importlib
import inspect
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIRED = "fired"
COMMITTED = ("JobQueued", "Assigned", "Started", "Ended", "Retried", "LogStored", "WorkerSeen")
LAUNCHER_POINTS = ("launcher.before_fork", "launcher.after_fork")
SHIM_POINTS = (
    "shim.before_started",
    "shim.after_started",
    "shim.after_spawn",
    "shim.before_exit_record",
    "shim.after_exit_record",
)
AGENT_POINTS = (
    "agent.before_accept",
    "agent.after_accept",
    "agent.before_order",
    "agent.after_order",
    "agent.on_started",
    "agent.before_report",
    "agent.on_acknowledged",
    "agent.before_forget",
    "agent.after_forget",
    "agent.while_preparing",
    "agent.while_collecting",
    "agent.after_collecting",
    "agent.on_log_mark",
    "agent.after_recovery",
    "agent.before_reconciling",
    "agent.after_reconciling",
)
COORDINATOR_POINTS = (
    *(f"coordinator.before_commit_of_{kind}" for kind in COMMITTED),
    *(f"coordinator.after_commit_of_{kind}" for kind in COMMITTED),
    "coordinator.after_log_write",
)
GATEWAY_POINTS = (
    "gateway.before_submit",
    "gateway.after_submit",
    "gateway.before_stop",
    "gateway.after_stop",
)
# The shim's points after which nobody can know how the program ended.
LOSING = ("shim.after_started", "shim.after_spawn", "shim.before_exit_record")


class Points:
    """The points of one process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def reach(self, name: str, key: str) -> None:
        """Die here when *name* is armed."""
        try:
            os.unlink(self._directory / name)
        except FileNotFoundError:
            return
        fd = os.open(self._directory / FIRED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, f"{name} {os.getpid()} {key}\n".encode())
        while True:  # a stopped process dies a moment later
            os.kill(os.getpid(), signal.SIGKILL)

    def put(
        self,
        owner: Any,
        attribute: str,
        *,
        before: str = "",
        after: str = "",
        key: Callable[..., str] = lambda *_: "",
        when: Callable[..., bool] = lambda *_: True,
    ) -> None:
        """Wrap a function or a method; *key* and *when* get its arguments."""
        original = getattr(owner, attribute)

        def reach(name: str, given: tuple[Any, ...]) -> None:
            if name and when(*given):
                self.reach(name, key(*given))

        def wrapped(*given: Any, **named: Any) -> Any:
            reach(before, given)
            answer = original(*given, **named)
            reach(after, given)
            return answer

        async def awaited(*given: Any, **named: Any) -> Any:
            reach(before, given)
            answer = await original(*given, **named)
            reach(after, given)
            return answer

        setattr(owner, attribute, awaited if inspect.iscoroutinefunction(original) else wrapped)


def shift_clock(path: Path) -> None:
    """Let `time.time` and `time.time_ns` of this process and its forks follow the file."""
    with path.open("rb") as file:
        shift = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int.from_bytes(shift[:8], "little", signed=True)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def _own_key(supervision: Any, *_: Any) -> str:
    return str(supervision.key)


def arm_launcher(directory: str, clock: str) -> None:
    """Called by the changed start text of a launcher, before it runs."""
    shift_clock(Path(clock))
    points = Points(Path(directory))
    from worker_agent import supervision
    from worker_agent.launcher import Launcher

    points.put(Launcher, "_fork", before="launcher.before_fork", after="launcher.after_fork")
    attempt: Any = supervision.Supervision
    points.put(attempt, "begin", before="shim.before_started", key=_own_key)
    points.put(attempt, "_start", before="shim.after_started", key=_own_key)
    points.put(supervision, "spawn", after="shim.after_spawn", key=lambda order, *_: str(order.key))
    points.put(attempt, "_finish", before="shim.before_exit_record", after="shim.after_exit_record", key=_own_key)


def _arm_agent(points: Points, directory: str, clock: str) -> None:
    from worker_agent import agent, shim_link
    from worker_agent.attempt_events import Started
    from worker_agent.journal import Journal
    from worker_agent.link import Link
    from worker_agent.runner import Runner
    from worker_agent.workspaces import Workspaces

    arming = f"from tests.faults.failing import arm_launcher; arm_launcher({directory!r}, {clock!r}); "
    begin, end = shim_link._START.split("from worker_agent.launcher")
    shim_link._START = f"{begin}{arming}from worker_agent.launcher{end}"  # type: ignore[misc, unused-ignore]
    centre: Any = agent.Agent
    points.put(
        Journal,
        "accept",
        before="agent.before_accept",
        after="agent.after_accept",
        when=lambda _, group: bool(group),
    )
    points.put(Runner, "start", before="agent.before_order")
    link: Any = shim_link.ShimLink
    sent = link._send_orders

    def send_orders(self: Any) -> None:
        had = self.is_gathering
        sent(self)
        if had:
            points.reach("agent.after_order", "")

    link._send_orders = send_orders
    points.put(
        centre,
        "on_event",
        before="agent.on_started",
        when=lambda _, *events: any(isinstance(each, Started) for each in events),
    )
    news = Link._news

    def said(self: Any) -> Any:
        message = news(self)
        if any(report.HasField("end") for report in message.reports):
            points.reach("agent.before_report", "")
        return message

    Link._news = said  # type: ignore[method-assign]
    points.put(centre, "on_acknowledged", before="agent.on_acknowledged")
    points.put(
        Journal,
        "acknowledge",
        before="agent.before_forget",
        after="agent.after_forget",
        when=lambda _, keys: bool(keys),
    )
    points.put(Workspaces, "prepare", after="agent.while_preparing")
    points.put(Workspaces, "collect", after="agent.while_collecting")
    points.put(centre, "on_collected", before="agent.after_collecting")
    points.put(centre, "on_log_mark", before="agent.on_log_mark")
    points.put(agent, "recover", after="agent.after_recovery")
    points.put(centre, "on_connected", before="agent.before_reconciling", after="agent.after_reconciling")


def _arm_coordinator(points: Points) -> None:
    from coordinator.log_store import LogStore
    from coordinator.storage.sqlite import SqliteStore

    store: Any = SqliteStore
    commit = store.commit

    async def committed(self: Any, changes: Any, fetch: Any) -> Any:
        kinds = [type(change).__name__ for change in changes]
        for kind in kinds:
            points.reach(f"coordinator.before_commit_of_{kind}", "")
        works = await commit(self, changes, fetch)
        for kind in kinds:
            points.reach(f"coordinator.after_commit_of_{kind}", "")
        return works

    store.commit = committed
    points.put(LogStore, "_write", after="coordinator.after_log_write")


def _arm_gateway(points: Points) -> None:
    from hostler.client import Client

    caller: Any = Client
    points.put(caller, "submit", before="gateway.before_submit", after="gateway.after_submit")
    points.put(caller, "stop", before="gateway.before_stop", after="gateway.after_stop")


def main() -> int:
    """Wrap what the arguments say and run the program."""
    directory, clock, module = sys.argv[1:4]
    shift_clock(Path(clock))
    points = Points(Path(directory))
    if module == "worker_agent":
        _arm_agent(points, directory, clock)
    elif module == "coordinator":
        _arm_coordinator(points)
    elif module == "http_gateway":
        _arm_gateway(points)
    sys.argv = [module, *sys.argv[4:]]
    code: int = importlib.import_module(f"{module}.__main__").main()
    return code


if __name__ == "__main__":
    sys.exit(main())
