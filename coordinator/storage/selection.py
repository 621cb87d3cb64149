"""Which jobs a list shows, as a query: the plain conditions in SQL, a filter by looking at each row.

A filter may have to look at every job there ever was: one call looks at so many, and `next` goes on after them. What
of it says which value a column must have is a condition too, so that an index can serve.
"""

import sqlite3
from collections.abc import Iterator
from typing import Any

from coordinator.storage import rows
from coordinator.storage.selection_rows import tags_of
from hostler.job_filters import facts_of, parse_filter
from hostler.jobs import BriefJob, JobPage, JobQuery
from hostler.lifecycle import Outcome, State
from hostler.selectors import All, Facts, OneOf, Selector

PAGE_MAX = 1000
BRIEF_PAGE_MAX = 10_000
SCANNED_MAX = 10_000  # jobs that one call with a filter looks at
INTEGER_MAX = (1 << 63) - 1  # SQLite's; a larger number from outside means the same as this one

SCANNED = "SELECT number, id, state, outcome, name, workload, worker, family, owner, cause, tags FROM job"
WORKER_NAMES = "SELECT id, name FROM worker"
# Columns that hold what a filter calls by the same name.
_TEXTS = ("name", "workload", "family", "owner", "id", "cause")


def find_jobs(reader: sqlite3.Connection, query: JobQuery) -> JobPage:
    """See `Store.find_jobs`."""
    limit = max(1, min(query.limit, PAGE_MAX))
    if query.filter:
        found, following = _scan(reader, query, limit)
        numbers = [row["number"] for row in found]
        marks, order = ",".join("?" * len(numbers)), "DESC" if query.newest_first else "ASC"
        selection = f"WHERE number IN ({marks}) ORDER BY number {order}"
        sql = f"SELECT {rows.JOB_COLUMNS} FROM job {selection}"
        return JobPage(jobs=tuple(rows.job_of(row) for row in reader.execute(sql, numbers)), next=following)
    selection, values = selection_of(query)
    found = reader.execute(f"SELECT {rows.JOB_COLUMNS} FROM job {selection} LIMIT ?", (*values, limit + 1)).fetchall()
    page = found[:limit]
    following = str(page[-1]["number"]) if len(found) > limit else ""
    return JobPage(jobs=tuple(rows.job_of(row) for row in page), next=following)


def find_brief(reader: sqlite3.Connection, query: JobQuery) -> tuple[list[BriefJob], str]:
    """See `Store.find_brief`."""
    limit = max(1, min(query.limit, BRIEF_PAGE_MAX))
    if query.filter:
        page, following = _scan(reader, query, limit)
    else:
        selection, values = selection_of(query)
        sql = f"SELECT number, id, state, outcome FROM job {selection} LIMIT ?"
        page = reader.execute(sql, (*values, limit + 1)).fetchall()
        following = str(page[limit - 1]["number"]) if len(page) > limit else ""
    return [BriefJob(row["id"], State(row["state"]), Outcome(row["outcome"])) for row in page[:limit]], following


def _scan(reader: sqlite3.Connection, query: JobQuery, limit: int) -> tuple[list[sqlite3.Row], str]:
    """The next jobs that a filter finds, at most *limit*, and after which number to go on."""
    selector = parse_filter(query.filter)
    selection, values = selection_of(query, selector)
    workers = dict(reader.execute(WORKER_NAMES).fetchall())
    found: list[sqlite3.Row] = []
    last = None
    for place, row in enumerate(reader.execute(f"{SCANNED} {selection} LIMIT ?", (*values, SCANNED_MAX + 1))):
        if place == SCANNED_MAX:
            return found, str(last)
        if selector.matches(_facts(row, workers)):
            if len(found) == limit:
                return found, str(found[-1]["number"])
            found.append(row)
        last = row["number"]
    return found, ""


def _facts(row: sqlite3.Row, workers: dict[str, str]) -> Facts:
    return facts_of(
        job_id=row["id"],
        state=row["state"],
        outcome=row["outcome"],
        name=row["name"],
        workload=row["workload"],
        worker=row["worker"],
        worker_name=workers.get(row["worker"], ""),
        family=row["family"],
        owner=row["owner"],
        cause=row["cause"],
        tags=tags_of(row["tags"]),
    )


def selection_of(query: JobQuery, selector: Selector | None = None) -> tuple[str, list[Any]]:
    """The WHERE and ORDER BY of a list, and their values."""
    conditions, values = list[str](), list[Any]()
    if query.after.isdecimal() and len(query.after) < 100:
        conditions.append("number < ?" if query.newest_first else "number > ?")
        values.append(min(int(query.after), INTEGER_MAX))
    if query.states:
        conditions.append(f"state IN ({','.join('?' * len(query.states))})")
        values.extend(query.states)
        if State.FINISHED not in query.states:
            conditions.append("state < 5")  # lets the partial index of open jobs serve
    if query.owner and query.owner != "local":
        conditions.append("owner <> 'local'")  # this the one of owners
    if query.family and query.family != "native":
        conditions.append("family <> 'native'")  # and this the one of families
    for column, value in (
        ("name", query.name),
        ("owner", query.owner),
        ("family", query.family),
        ("worker", query.worker),
        ("workload", query.workload),
    ):
        if value:
            conditions.append(f"{column} = ?")
            values.append(value)
    number = "number"
    if query.id_prefix:
        conditions.append("id >= ? AND id < ?")
        values += (query.id_prefix, query.id_prefix + "\uffff")
        number = "+number"  # few ids begin so: they are looked up by the index of ids, and then sorted
    for column, wanted in _columns(selector):
        conditions.append(f"{column} IN ({','.join('?' * len(wanted))})")
        values += wanted
        if column == "state" and State.FINISHED not in wanted:
            conditions.append("state < 5")
        number = "+number" if column == "id" else number
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"{where} ORDER BY {number} {'DESC' if query.newest_first else 'ASC'}", values


def _columns(selector: Selector | None) -> Iterator[tuple[str, list[Any]]]:
    """Which values columns must have for a selector to hold, as far as that is easily said."""
    for term in selector.terms if isinstance(selector, All) else (selector,):
        if not isinstance(term, OneOf) or any(value.wild for value in term.values):
            continue
        texts = [value.text for value in term.values]
        if term.name in _TEXTS:
            yield term.name, texts
        elif term.name == "state":
            yield "state", [State[text.upper()] for text in texts]
        elif term.name == "outcome":
            yield "outcome", [Outcome[text.upper()] for text in texts]
