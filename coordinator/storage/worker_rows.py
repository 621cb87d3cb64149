"""Workers in the database: what is kept of them, and the statements that keep it."""

import json
from collections.abc import Callable
from typing import Any

from coordinator.changes import DrainAsked, EpochRaised, Quarantined, WorkerSeen

SEE_WORKER = (
    "INSERT INTO worker (id, name, host, version, labels, slots, boot_id, journal_id, generation, sequence, seen_at,"
    " runtimes, workloads, abilities, policy, named_only) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name, host = excluded.host,"
    " version = excluded.version, labels = excluded.labels, slots = excluded.slots, boot_id = excluded.boot_id,"
    " journal_id = excluded.journal_id, generation = excluded.generation, sequence = excluded.sequence,"
    " seen_at = excluded.seen_at, runtimes = excluded.runtimes, workloads = excluded.workloads,"
    " abilities = excluded.abilities, policy = excluded.policy, named_only = excluded.named_only"
)
KEEP_DRAIN = "UPDATE worker SET drain = ? WHERE id = ?"
KEEP_QUARANTINE = "UPDATE worker SET quarantine = ? WHERE id = ?"
RELEASE = "UPDATE worker SET quarantine = '', generation = 0 WHERE id = ?"
RAISE_EPOCH = "UPDATE leader SET epoch = ?"


def _worker_seen(out: Any, c: WorkerSeen) -> None:
    labels = json.dumps(c.labels)
    out.add(
        SEE_WORKER,
        (
            c.id,
            c.name,
            c.host,
            c.version,
            labels,
            c.slots,
            c.boot_id,
            c.journal_id,
            c.generation,
            c.sequence,
            c.at_us,
            ",".join(c.runtimes),
            json.dumps(c.workloads) if c.workloads else "",
            ",".join(c.abilities),
            c.policy,
            c.named_only,
        ),
    )


def _drain_asked(out: Any, c: DrainAsked) -> None:
    out.add(KEEP_DRAIN, (json.dumps(c.drain) if c.drain is not None else "", c.id))


def _quarantined(out: Any, c: Quarantined) -> None:
    if c.reason:
        out.add(KEEP_QUARANTINE, (c.reason, c.id))
    else:
        out.add(RELEASE, (c.id,))


def _epoch_raised(out: Any, c: EpochRaised) -> None:
    out.add(RAISE_EPOCH, (c.epoch,))


COMPILERS: dict[type, Callable[[Any, Any], None]] = {
    WorkerSeen: _worker_seen,
    DrainAsked: _drain_asked,
    Quarantined: _quarantined,
    EpochRaised: _epoch_raised,
}
