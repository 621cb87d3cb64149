"""What the simulation found, each as a small test of the part that was wrong."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

import coordinator.log_store
from coordinator.log_store import LogStore, Piece, StoredPiece
from coordinator.rpc.log_service import LogService
from coordinator.rpc.receipts import Receipts
from coordinator.rpc.workers_service import WorkersService, _kept
from coordinator.storage.protocol import LogExtents, Store
from coordinator.watchers import Watchers
from hostler import frames
from hostler.clock import SystemClock
from hostler.ids import AttemptKey
from hostler.jobs import Job, JobSpec, LogStatus, Work
from hostler.lifecycle import Outcome, State
from hostler.policy import LOCAL
from hostler.v1 import jobs_pb2, workers_pb2
from hostler.wire.work import key_to_proto
from tests.support.builders import an_id, some_frames
from tests.support.waiting import eventually
from worker_agent import link
from worker_agent.agent import Agent
from worker_agent.attempt_events import Started
from worker_agent.attempts import Exited, Order
from worker_agent.journal import Journal
from worker_agent.ledger import SegmentIdentity, SegmentWriter, scan_segment
from worker_agent.ledger_files import LedgerFiles
from worker_agent.link import Identity, Link
from worker_agent.recovery import Recovery
from worker_agent.reports import Assignments, StartCommand

KEY = f"{an_id(1)}.0.1"


def an_exit(ledger_bytes: int) -> Exited:
    """The end of a program with a short log."""
    return Exited(KEY, 1, 2, 0, 0.0, 0.0, 0, 1, ledger_bytes, 0, 0, "shim-1.1.segment", 100, ledger_bytes)


def test_the_log_of_an_attempt_that_a_later_agent_found_is_pushed() -> None:
    """The job may be over by the earlier agent's report: then only its log is waited for, and no report is read."""
    held, adopted = Assignments(2), Assignments(2)
    held.adopt(KEY, running=True, ended=None)
    held.held[KEY].adopted = False
    held.end(an_exit(50))
    adopted.adopt(KEY, running=False, ended=an_exit(50).ended())

    assert held.held[KEY].inline
    assert not adopted.held[KEY].inline
    assert not adopted.acknowledge(KEY)
    assert adopted.log_stored(KEY, 50)


class OneLog:
    """A live set that knows one log, or none."""

    def __init__(self, position: int | None) -> None:
        self._position = position

    def log_of(self, key: AttemptKey) -> Any:
        """The log."""
        return None if self._position is None else type("Log", (), {"log_position": self._position})


@pytest.mark.parametrize(("position", "told"), [(200, (200, False)), (None, (0, True))])
def test_a_worker_that_pushes_again_hears_how_much_is_stored(position: int | None, told: tuple[int, bool]) -> None:
    """It was cut off before it heard so, and would hold the attempt for ever. What nobody wants it may drop.

    Either is said by the engine, in its turn: the last piece, or the end of the job, may not be committed yet.
    """
    key, receipts = AttemptKey.parse(KEY), Receipts()

    decision = _kept(cast(Any, OneLog(position)), key, receipts, rewind=False)

    (effect,) = cast(Any, decision.effects)
    assert (effect.key, (effect.stored, effect.forget)) == (key, told)


class Kept:
    """A log store that takes everything."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []

    async def append(self, piece: Any) -> None:
        """Take a piece."""
        self.pieces.append(piece)


async def test_a_piece_that_follows_on_what_is_stored_is_taken_whatever_was_received() -> None:
    """A full disk took the mark of what was received back behind what was stored: both would wait for ever."""
    key, receipts, kept = AttemptKey.parse(KEY), Receipts(), Kept()
    log = type("Log", (), {"log_position": 165, "number": 1})
    engine = type("Engine", (), {"live": type("Live", (), {"log_of": staticmethod(lambda key: log)})})
    service = WorkersService(cast(Any, engine), cast(Any, kept), cast(Any, None), cast(Any, None), heartbeat_s=2.0)
    service._receipts[key] = receipts
    receipts.received[key] = 99
    part = workers_pb2.LogPart(key=key_to_proto(key), position=165, frames=some_frames(b"more"))

    await service._take_piece(part, receipts)

    assert [piece.position for piece in kept.pieces] == [165]
    assert receipts.received[key] == 165 + len(part.frames)


class TrailingLogs:
    """What is known of one worker, and of the log of one attempt of it that is over."""

    def __init__(self) -> None:
        self.log = type("Log", (), {"log_position": 100, "number": 1, "worker": "w"})
        self.workers = {"w": type("Worker", (), {"session": "later"})}

    def log_of(self, key: AttemptKey) -> Any:
        """It is wanted."""
        return self.log


async def test_a_piece_that_an_earlier_agent_sent_takes_no_log_from_the_stream_of_a_later_one() -> None:
    """What is stored would be told where nobody listens, and the later agent would hold the attempt for ever."""
    key, kept = AttemptKey.parse(KEY), Kept()
    earlier, later = Receipts("earlier"), Receipts("later")
    engine = type("Engine", (), {"live": TrailingLogs()})
    service = WorkersService(cast(Any, engine), cast(Any, kept), cast(Any, None), cast(Any, None), heartbeat_s=2.0)
    part = workers_pb2.LogPart(key=key_to_proto(key), position=100, frames=some_frames(b"more"))
    stale = workers_pb2.LogPart(key=key_to_proto(key), position=100, frames=some_frames(b"mo"))

    await service._take_piece(part, later)
    await service._take_piece(stale, earlier)

    assert service._receipts == {key: later}
    assert [piece.frames for piece in kept.pieces] == [part.frames]
    assert not earlier.marks


class SilentShims:
    """A runner that has not found the shim of an attempt yet."""

    def __init__(self) -> None:
        self.stops: list[tuple[str, float]] = []
        self.has_found = False

    def stop(self, key: str, *, grace_s: float, cause: Any) -> bool:
        """End an attempt, if its shim is known."""
        if self.has_found:
            self.stops.append((key, grace_s))
        return self.has_found


def test_a_stop_is_not_lost_on_an_attempt_whose_shim_is_silent(tmp_path: Path) -> None:
    """The shim hangs when the agent begins; when it answers, the attempt is ended, without another word from above."""
    journal = Journal.open(tmp_path, "boot")
    agent = Agent(journal, 1)
    shims = SilentShims()
    agent._runner = cast(Any, shims)
    agent.workspaces = cast(Any, type("Workspaces", (), {"watch": lambda key: None}))
    agent.assignments.adopt(KEY, running=True, ended=None)
    agent._fill = lambda: None  # type: ignore[method-assign]

    agent.on_stop(KEY, 1, 2.5)
    shims.has_found = True
    agent.on_event(Started(KEY, 17, 1))

    assert shims.stops == [(KEY, 2.5)]
    journal.close()


class FailedBetweenAttempts:
    """A store with a job that was stopped while it waited for its second attempt."""

    def __init__(self) -> None:
        spec = JobSpec(work=Work(argv=("true",)))
        self.frames = some_frames(b"hello")
        self.job = Job(
            id=an_id(1),
            spec=spec,
            state=State.FINISHED,
            outcome=Outcome.STOPPED,
            attempt=1,
            log_status=LogStatus.COMPLETE,
            log_position=len(self.frames),
        )
        self.is_over = False

    async def find_log(self, job_id: str, key: AttemptKey | None, position: int) -> LogExtents:
        """The log of the first attempt, which is over; the job is stopped after the first look."""
        seen = self.job if self.is_over else replace(self.job, state=State.QUEUED)
        return LogExtents(seen, 0, 1, True, self.frames, ())

    async def get_job(self, job_id: str) -> Job:
        """The job, which is over by now."""
        self.is_over = True
        return self.job


async def test_a_follower_sees_the_log_of_the_last_attempt_once() -> None:
    """Also when the job is stopped while it waits for another attempt, which then never begins."""
    service = LogService(cast(Store, FailedBetweenAttempts()), cast(LogStore, None), Watchers())
    request = jobs_pb2.ReadLogRequest(id=an_id(1), follow=True)
    chunks = []

    async with asyncio.timeout(5):
        async for chunk in service.read_log(request, LOCAL):
            chunks.append(chunk)

    assert [len(chunk.frames) > 0 for chunk in chunks] == [True, False]
    assert chunks[-1].end


class EndedCall:
    """A stream that gRPC has ended, which its writer notices before its reader."""

    async def write(self, message: Any) -> None:
        """As grpc.aio does it."""
        raise asyncio.InvalidStateError("RPC already finished.")

    def cancel(self) -> bool:
        """It is over."""
        return False


class EndedChannel:
    """A channel of such streams."""

    opened = 0

    def __init__(self, *arguments: Any) -> None:
        EndedChannel.opened += 1

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """The callable of a method."""
        return lambda **options: EndedCall()

    stream_unary = unary_unary = unary_stream = stream_stream

    async def __aenter__(self) -> "EndedChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_an_agent_outlives_a_stream_that_ends_while_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It connects again, whatever gRPC calls the end."""
    EndedChannel.opened = 0
    monkeypatch.setattr(link, "open_channel", EndedChannel)
    monkeypatch.setattr(link, "RECONNECT_FIRST_S", 0.001)
    journal = Journal.open(tmp_path, "boot")
    agent = Agent(journal, 1)
    agent.workspaces = cast(Any, type("Workspaces", (), {"connected": type("Time", (), {"down": lambda: None})}))
    made = make_link(agent)
    running = asyncio.create_task(made.run())
    try:
        await eventually(lambda: EndedChannel.opened >= 3)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        journal.close()


def make_link(agent: Agent) -> Link:
    """A link of an agent."""
    options: dict[str, Any] = {
        "agent": agent,
        "identity": Identity(name="w", host="h", slots=1),
        "worker": "",
        "remember": lambda worker: None,
        "lease": cast(Any, None),
        "clock": SystemClock(),
    }
    names = Link.__init__.__annotations__
    options |= {name: "unix:/nowhere" for name in ("address", "target") if name in names}
    return Link(**options)


def a_recovery(tmp_path: Path) -> tuple[Recovery, LedgerFiles, Path]:
    """A recovery of one open attempt, which has ended in the one segment there is."""
    segments = tmp_path / "segments"
    segments.mkdir()
    writer = SegmentWriter(segments, SegmentIdentity(1, "boot", 1, 1, "nonce"))
    writer.write(frames.encode(frames.STARTED, json.dumps({"key": KEY}).encode(), 1))
    writer.write(frames.encode(frames.EXIT, json.dumps(an_exit(0)).encode(), 2))
    writer.close()
    ledgers = LedgerFiles(segments)
    runner = cast(Any, type("Runner", (), {"ledgers": ledgers, "segments_dir": segments, "sockets_dir": tmp_path}))
    runner.unkillable = None
    runner.own = asyncio.ensure_future
    runner.confining = Mock()
    found = Recovery(runner, {KEY})
    found._found = {1}
    return found, ledgers, segments / writer.name


async def test_the_segment_of_a_dead_shim_goes_although_another_shim_was_silent_then(tmp_path: Path) -> None:
    """Recovery looks at all segments once more when the silent shim has answered; what is gone stays gone."""
    found, ledgers, segment = a_recovery(tmp_path)
    found._dead.add(1)
    scanned = [scan_segment(segment)]

    await found._clean(scanned, {KEY})
    await found._clean(scanned, ())
    ledgers.forget({KEY})

    assert not segment.exists()


def test_a_shim_that_dies_while_it_is_taken_in_leaves_its_segment(tmp_path: Path) -> None:
    """The log of an attempt that is over is still to be sent; without it no stream of the worker would last."""
    found, ledgers, segment = a_recovery(tmp_path)
    scanned = [scan_segment(segment)]

    found._place(scanned, {KEY})
    found._settled.add(1)
    ledgers.shim_gone(1)
    found._place(scanned, {KEY})

    assert segment.exists()
    ledgers.forget({KEY})
    assert not segment.exists()


def test_the_segment_of_a_shim_that_was_made_and_died_during_recovery_goes(tmp_path: Path) -> None:
    """While a silent shim was waited for; looked at once more with the others, it stayed for ever."""
    found, ledgers, segment = a_recovery(tmp_path)
    found._found.clear()
    ledgers.place(KEY, segment.name, 0)
    ledgers.shim_gone(1)

    found._place([scan_segment(segment)], ())
    ledgers.forget({KEY})

    assert not segment.exists()


async def test_a_full_disk_is_not_asked_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker pushes what was refused as soon as it hears so: without a pause both sides did nothing else."""
    told: list[float] = []
    loop = asyncio.get_running_loop()
    store = LogStore(tmp_path, lambda pieces: told.append(loop.time()))
    store.open()
    monkeypatch.setattr(store, "_write", lambda group: (tmp_path / "nowhere").read_bytes())
    monkeypatch.setattr(coordinator.log_store, "REFUSED_PAUSE_S", 0.1)
    began = loop.time()
    await store.append(Piece(1, AttemptKey.parse(KEY), 0, b"frame"))
    await eventually(lambda: bool(told))
    await store.close()

    assert told[0] - began >= 0.1
    assert len(told) == 1


async def test_a_log_store_removes_no_segment_that_another_one_has_written(tmp_path: Path) -> None:
    """A coordinator that hung goes on beside the one in its place, and comes to the same number for its next one."""
    told: dict[int, list[StoredPiece]] = {0: [], 1: []}
    stores = [LogStore(tmp_path, told[place].extend) for place in (0, 1)]
    for store in stores:
        store.open()

    for place, store in enumerate(stores):
        await store.append(Piece(1, AttemptKey.parse(KEY), 0, some_frames(b"of %d" % place)))
        await store.close()

    assert await asyncio.to_thread(LogStore(tmp_path, print)._read, [told[0][0].extent]) == some_frames(b"of 0")


def test_what_waits_at_a_worker_goes_on_under_the_lease_that_it_is_confirmed_under() -> None:
    """Also what is being prepared: its order of before comes back from there."""
    held = Assignments(2)
    order = Order(KEY, ("program",), lease=1)
    held.accept(StartCommand(1, order, 1, b"", Work(workspace=True)))

    held.renew(2)
    held.prepared(order._replace(cwd="/place"))

    waiting = held.next_waiting()
    assert waiting is not None and waiting.order is not None
    assert (waiting.order.lease, waiting.order.cwd) == (2, "/place")
