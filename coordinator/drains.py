"""Emptying a worker on request, and releasing one from quarantine.

Pure. A drain is durable: it holds over restarts of both sides, until it is taken back. What a worker was
sent and has not begun is asked back; what runs may take its time, or is ended with the cause ``drain``
when the deadline has come, which is said again every second until the worker has proved the end.
"""

from typing import Any

from coordinator.capacity import Worker
from coordinator.changes import Change, Drain, DrainAsked, Quarantined
from coordinator.effects import Answer, Effect, SendLeave, SendRecall, SendStop
from coordinator.instant import Instant
from coordinator.live import Live
from hostler.errors import HostlerError, InvalidRequest, WorkerNotFound
from hostler.lifecycle import State

OWN_GRACE_S = -1.0  # a stop with this patience leaves each job its own


def find_worker(live: Live, named: str) -> Worker | WorkerNotFound | InvalidRequest:
    """The worker of this id or, when only one has it, of this name."""
    worker = live.workers.get(named)
    if worker is not None:
        return worker
    found = [each for each in live.workers.values() if each.name == named]
    found = [each for each in found if not each.revoked] or found  # its host may have joined again since
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(each.id for each in found[:5])
        return InvalidRequest(
            f"{len(found)} workers are named {named[:100]!r}; give the id of one: {ids}", field="worker"
        )
    return WorkerNotFound(f"there is no worker {named[:100]!r}", field="worker")


def _changeable(live: Live, named: str) -> Worker | HostlerError:
    """The worker of this id or name, if anything can be asked of it."""
    worker = find_worker(live, named)
    if isinstance(worker, Worker) and worker.revoked:
        return InvalidRequest(f"worker {worker.name} was revoked: {worker.reason}", field="worker")
    return worker


def on_drain(live: Live, named: str, drain: Drain, reply: Any) -> tuple[list[Change], list[Effect]]:
    """Give a worker nothing more; a second drain replaces the first, but for a reason that it does not give."""
    worker = _changeable(live, named)
    if not isinstance(worker, Worker):
        return [], [Answer(reply, worker)]
    if not drain.reason and worker.drain is not None:
        drain = drain._replace(reason=worker.drain.reason)
    jobs = [live.jobs[number] for number in worker.held.values()]
    recalled = [SendRecall(worker.id, job.attempt_key) for job in jobs if job.state is State.ASSIGNED]
    return [DrainAsked(worker.id, drain)], [*recalled, Answer(reply, worker.id)]


def on_resume(live: Live, named: str, reply: Any) -> tuple[list[Change], list[Effect]]:
    """Let a worker have work again."""
    worker = _changeable(live, named)
    if not isinstance(worker, Worker):
        return [], [Answer(reply, worker)]
    changes: list[Change] = [DrainAsked(worker.id, None)] if worker.drain is not None else []
    return changes, [Answer(reply, worker.id)]


def on_release(live: Live, named: str, reply: Any) -> tuple[list[Change], list[Effect]]:
    """Hear a worker again that was put under quarantine."""
    worker = _changeable(live, named)
    if not isinstance(worker, Worker):
        return [], [Answer(reply, worker)]
    changes: list[Change] = [Quarantined(worker.id, "")] if worker.quarantine else []
    return changes, [Answer(reply, worker.id)]


def due_drains(live: Live, now: Instant) -> list[Effect]:
    """What workers that are being emptied are to be told at this moment."""
    effects: list[Effect] = []
    for worker in live.workers.values():
        drain = worker.drain
        if drain is None or not worker.connected:
            continue
        if not worker.held:
            if drain.leave:
                effects.append(SendLeave(worker.id))
        elif drain.by_us and now.wall_us >= drain.by_us:
            for number in worker.held.values():
                job = live.jobs[number]
                if job.stop_grace_s is None:
                    effects.append(SendStop(worker.id, job.sequence, job.attempt_key, OWN_GRACE_S, "drain"))
    return effects
