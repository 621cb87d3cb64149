"""What the coordinator's own event log says after a fault run, compared with what may ever happen."""

import contextlib
import sqlite3
from collections import defaultdict
from pathlib import Path

FINAL = "ended"  # once for a job, and only what concerns its log comes after it


def contradictions(database: Path) -> list[str]:
    """Read the event log of a coordinator that has ended: ends are final (I3), attempts only grow (I11).

    The database itself must be whole (`PRAGMA integrity_check`).
    """
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (state,) = connection.execute("PRAGMA integrity_check").fetchone()
        found = [] if state == "ok" else [f"the database is not whole: {state}"]
        rows = connection.execute(
            "SELECT j.id, e.kinds, e.stage, e.attempt FROM event e JOIN job j ON j.number = e.job ORDER BY e.number"
        ).fetchall()
        finals = dict(connection.execute("SELECT id, state FROM job").fetchall())
    by_job: defaultdict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for job, kinds, stage, attempt in rows:
        by_job[job] += [(kind, stage, attempt) for kind in kinds.split(",")]
    for job, events in by_job.items():
        kinds = [kind for kind, _, _ in events]
        if kinds.count(FINAL) > 1:
            found.append(f"I3: job {job} ended {kinds.count(FINAL)} times: {kinds}")
        if FINAL in kinds and (after := [kind for kind in kinds[kinds.index(FINAL) + 1 :] if "log" not in kind]):
            found.append(f"I3: after its end job {job} went on with {after}")
        places = [(stage, attempt) for _, stage, attempt in events]
        if places != sorted(places):
            found.append(f"I11: the attempts of job {job} went back: {events}")
    found += [f"I1: job {job} has no event" for job in finals if job not in by_job]
    return found
