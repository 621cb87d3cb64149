"""What happened to jobs: rows of the table `event` and the transitions that readers are told."""

import sqlite3

from hostler.jobs import JobEvent

EVENTS_PER_ROW = 16  # a row's kinds are numbered row * 16 + place, so that each has a number of its own
# What else `events_of` reads: a row of events names a worker only where the transition chose it or sent its job back.
OF_THE_JOB = (
    "job.id, job.owner, CASE WHEN event.attempt = 0 THEN ''"
    " WHEN event.stage = job.stage AND event.attempt = job.attempt THEN job.worker ELSE COALESCE("
    "(SELECT past_attempt.worker FROM past_attempt WHERE past_attempt.job = event.job"
    " AND past_attempt.stage = event.stage AND past_attempt.attempt = event.attempt), '') END AS its_worker"
)
# They always say a detail. No two of them share a row, but in old ones, where the detail is that of the last.
EXPLAINED = frozenset({"assigned", "requeued", "stop_requested", "unkillable", "retried", "ended", "logs_expired"})
ALL_EVENTS = (
    f"SELECT event.*, {OF_THE_JOB} FROM event JOIN job ON job.number = event.job WHERE event.number >= ?"
    " ORDER BY event.number LIMIT ?"
)
JOB_EVENTS = (
    f"SELECT event.*, {OF_THE_JOB} FROM event JOIN job ON job.number = event.job WHERE event.number >= ?"
    " AND event.job IN (SELECT number FROM job WHERE id IN ({})) ORDER BY event.number LIMIT ?"
)
HISTORY = (
    f"SELECT event.*, {OF_THE_JOB} FROM event JOIN job ON job.number = event.job"
    " WHERE event.job = (SELECT number FROM job WHERE id = ?) ORDER BY event.number DESC LIMIT ?"
)


def events_of(row: sqlite3.Row) -> list[JobEvent]:
    """Build the transitions of one row of `event` with `OF_THE_JOB`, each with what is true of itself."""
    kinds = row["kinds"].split(",")
    explained = max((place for place, kind in enumerate(kinds) if kind in EXPLAINED), default=-1)
    return [
        JobEvent(
            number=row["number"] * EVENTS_PER_ROW + min(place, EVENTS_PER_ROW - 1),
            job=row["id"],
            kind=kind,
            at_us=row["at"],
            # What is accepted has no attempt yet, whichever its row is of.
            stage=0 if kind == "queued" else row["stage"],
            attempt=0 if kind == "queued" else row["attempt"],
            worker="" if kind == "queued" else row["worker"] or row["its_worker"],
            detail=row["detail"] if place == explained else "",
        )
        for place, kind in enumerate(kinds)
    ]
