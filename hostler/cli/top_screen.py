"""How `hostler top` looks: lines of text for a width and a height, each exactly one line.

What does not fit is left out in an order of its own: columns from those that say least, rows from the end.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hostler.cli.load import JobLoad, Load, WorkerLoad
from hostler.cli.render import SHORT_ID_CHARACTERS, job_style, printable, span_text, state_word, work_text
from hostler.jobs import Job
from hostler.state_text import state_text
from hostler.wording import counted
from hostler.workers import WorkerState

if TYPE_CHECKING:
    from rich.text import Text

GAP = "  "
ENDED_SHARE = WORKERS_SHARE = 0.25  # of the lines, at most
TEXT_CHARACTERS_MAX = 300
UNITS = ((1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


class _Column(NamedTuple):
    """A column: what is in it, how wide it is, and when it is given up."""

    name: str
    width: int  # 0: what is left
    rank: int  # where room is missing, the highest goes first
    right: bool = False
    width_min: int = 0  # before the important ones go, it may be cut to so much; 0: to nothing less


JOB_COLUMNS = (
    _Column("id", SHORT_ID_CHARACTERS, 0),
    _Column("cpu", 6, 1, right=True),
    _Column("memory", 7, 3, right=True),
    _Column("age", 5, 4, right=True),
    _Column("done", 5, 5, right=True),
    _Column("worker", 14, 6),
    _Column("name", 16, 2, width_min=8),
    _Column("command", 0, 0),
)
WORKER_COLUMNS = (
    _Column("worker", 20, 0, width_min=14),
    _Column("state", 12, 1),
    _Column("jobs", 9, 0, right=True),
    _Column("cpu", 6, 2, right=True),
    _Column("memory", 7, 3, right=True),
    _Column("labels", 0, 5),
)
ENDED_COLUMNS = (
    _Column("id", SHORT_ID_CHARACTERS, 0),
    _Column("ended", 5, 4, right=True),
    _Column("took", 5, 5, right=True),
    _Column("name", 16, 2, width_min=8),
    _Column("outcome", 24, 1, width_min=11),
    _Column("command", 0, 0),
)
IMPORTANT = 4  # before a column of this rank or a lower one goes, others are cut
LAST_MIN, LAST_CUT = 10, 7  # the column that gets what is left is worth as much; when others are cut, as little


def screen(load: Load, jobs: Sequence[JobLoad], *, width: int, height: int, foot: str, away: str) -> "list[Text]":
    """The lines of a whole screen: at most *height*, none wider than *width*.

    Args:
        load: what is shown.
        jobs: its jobs, in the order in which they are shown.
        width: columns of the terminal.
        height: its lines.
        foot: the last line.
        away: that the coordinator does not answer; empty: it does.
    """
    from rich.text import Text

    lines = [_line(away or head(load, width), width, "bold red" if away else "bold")]
    room = height - 2
    ended = _rows_of(len(load.ended), room, ENDED_SHARE)
    workers = _rows_of(len(load.workers), room, WORKERS_SHARE)
    running = max(0, room - sum(1 + rows for rows in (workers, ended) if rows) - 1)
    lines += section(WORKER_COLUMNS, load.workers, worker_cells, width, workers)
    lines += section(JOB_COLUMNS, jobs, lambda one: job_cells(load, one), width, running)
    if ended:
        lines += [Text()] * max(0, running - len(jobs))  # the newest ends stay where they are
        lines += section(ENDED_COLUMNS, load.ended, lambda one: ended_cells(load, one), width, ended)
    lines = lines[: height - 1]
    lines += [Text()] * (height - 1 - len(lines))
    return [*lines, _line(foot, width, "dim")]


def snapshot(load: Load, jobs: Sequence[JobLoad], *, width: int, cut: bool) -> "list[Text]":
    """Everything once, without a screen: *cut* to the width, or with columns as wide as they have to be."""
    from rich.text import Text

    lines = [_line(head(load, width), width, "bold")]
    for columns, rows, cells in (
        (WORKER_COLUMNS, load.workers, worker_cells),
        (JOB_COLUMNS, jobs, lambda one: job_cells(load, one, cut=cut)),
        (ENDED_COLUMNS, load.ended, lambda one: ended_cells(load, one, cut=cut)),
    ):
        if rows:
            fitting = columns if cut else _widened(columns, [cells(row)[0] for row in rows])
            lines += [Text(), *section(fitting, rows, cells, width, len(rows))]
    return lines


def _widened(columns: Sequence[_Column], rows: Sequence[Sequence[str]]) -> list[_Column]:
    widest = [max(len(printable(row[place])) for row in rows) for place in range(len(columns))]
    return [
        column if column is columns[-1] else column._replace(width=max(column.width, len(column.name), size))
        for column, size in zip(columns, widest, strict=True)
    ]


def _rows_of(count: int, room: int, share: float) -> int:
    return min(count, max(1 if room >= 6 else 0, int(room * share) - 1))


def section(
    columns: Sequence[_Column],
    rows: Sequence[object],
    cells: "Callable[[object], tuple[Sequence[str], str]]",
    width: int,
    count: int,
) -> "list[Text]":
    """The heads of a table and its first rows; nothing when there is no room for a row."""
    if count <= 0:
        return []
    columns, kept = columns_for(columns, width)
    heads = [columns[place].name.upper() for place in kept]
    lines = [_row(columns, kept, heads, width, "bold underline", by_place=False)]
    for row in rows[:count]:
        texts, style = cells(row)
        lines.append(_row(columns, kept, texts, width, style, by_place=True))
    return lines


def columns_for(columns: Sequence[_Column], width: int) -> tuple[list[_Column], list[int]]:
    """The columns as wide as they can be in a width, and the places of those that it has room for."""
    kept = list(range(len(columns)))

    def missing(sizes: Sequence[int]) -> int:
        return sum(sizes[place] for place in kept) + len(GAP) * (len(kept) - 1) - width

    wide = [column.width or LAST_MIN for column in columns]
    least = [column.width_min or column.width or LAST_CUT for column in columns]
    for sizes, rank_min in ((wide, IMPORTANT + 1), (least, 1)):
        while missing(sizes) > 0:
            worst = max(kept, key=lambda place: columns[place].rank)
            if columns[worst].rank < rank_min:
                break
            kept.remove(worst)
    sized = list(columns)
    # The least important is cut first, until the last one has enough.
    for place in sorted(kept, key=lambda place: -columns[place].rank):
        cut = min(max(0, missing(wide)), wide[place] - least[place])
        if columns[place].width:
            wide[place] -= cut
            sized[place] = columns[place]._replace(width=wide[place])
    return sized, kept


def _row(
    columns: Sequence[_Column], kept: Sequence[int], texts: Sequence[str], width: int, style: str, *, by_place: bool
) -> "Text":
    from rich.text import Text

    line = Text(style=style, no_wrap=True)
    left = width - sum(columns[place].width for place in kept) - len(GAP) * (len(kept) - 1)
    for number, place in enumerate(kept):
        column = columns[place]
        size = column.width or max(1, left)
        text = printable(texts[place if by_place else number][:TEXT_CHARACTERS_MAX])
        cell = Text(state_word(text) if column.name == "outcome" and len(text) > size else text)
        cell.truncate(size, overflow="ellipsis")
        pad = " " * max(0, size - cell.cell_len)
        line.append(GAP if number else "").append(pad if column.right else "").append_text(cell)
        line.append("" if column.right else pad)
    line.truncate(width, overflow="crop")
    line.rstrip()
    return line


def _line(text: str, width: int, style: str) -> "Text":
    from rich.text import Text

    line = Text(printable(text), style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def head(load: Load, width: int) -> str:
    """How the cluster fares, as much of it as fits."""
    rate = "" if load.ended_a_minute is None else f"{load.ended_a_minute:,.0f} jobs/min"
    connected = sum(one.worker.state is WorkerState.CONNECTED for one in load.workers)
    of_all = f"{connected:,} of " if connected < len(load.workers) else ""
    parts = [
        f"{load.running:,} running",
        f"{load.queued:,} queued",
        f"{load.slots_used:,}/{load.slots:,} slots",
        of_all + counted(len(load.workers), "worker", "workers"),
        rate,
        f"up {span_text(load.at_us - load.started_at_us)}" if load.started_at_us else "",
        f"hostler {load.version}",
    ]
    text = ""
    for part in parts:
        if part and len(text) + len(GAP) + len(part) <= width:
            text += (GAP if text else "") + part
    return text


def worker_cells(one: object) -> tuple[Sequence[str], str]:
    """A worker in the columns of `WORKER_COLUMNS`, and how it is drawn."""
    assert isinstance(one, WorkerLoad)
    worker = one.worker
    jobs = f"{worker.running}/{worker.slots}"
    style = "" if worker.state is WorkerState.CONNECTED else "yellow"
    labels = worker.reason or " ".join(f"{name}={value}" for name, value in sorted(worker.labels.items()))
    numbers = (jobs, percent_text(one.cpu_percent), size_text(one.memory_bytes))
    return (worker.name, worker.state.value, *numbers, labels), style


def job_cells(load: Load, one: object, *, cut: bool = True) -> tuple[Sequence[str], str]:
    """A job that runs in the columns of `JOB_COLUMNS`, and how it is drawn."""
    assert isinstance(one, JobLoad)
    job = one.job
    done = "" if job.advance.percent is None else f"{job.advance.percent} %"
    names = {one.worker.id: one.worker.name for one in load.workers}
    cells = (
        job.id[:SHORT_ID_CHARACTERS] if cut else job.id,
        percent_text(one.cpu_percent),
        size_text(one.memory_bytes),
        span_text(load.at_us - (job.started_at_us or job.assigned_at_us)),
        done,
        names.get(job.worker, job.worker[:SHORT_ID_CHARACTERS]),
        job.spec.name,
        work_text(job.spec),
    )
    return cells, job_style(job)


def ended_cells(load: Load, job: object, *, cut: bool = True) -> tuple[Sequence[str], str]:
    """A job that has ended in the columns of `ENDED_COLUMNS`, and how it is drawn."""
    assert isinstance(job, Job)
    took = span_text(job.finished_at_us - job.started_at_us) if job.started_at_us else ""
    cells = (
        job.id[:SHORT_ID_CHARACTERS] if cut else job.id,
        span_text(load.at_us - job.finished_at_us),
        took,
        job.spec.name,
        state_text(job),
        work_text(job.spec),
    )
    return cells, job_style(job)


def percent_text(percent: float | None) -> str:
    """Of one processor."""
    if percent is None:
        return "-"
    return f"{percent:.1f}" if percent < 99.95 else f"{percent:,.0f}"


def size_text(size_bytes: int | None) -> str:
    """A number of bytes in few characters."""
    if size_bytes is None:
        return "-"
    for unit, letter in UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f}{letter}" if size_bytes < 100 * unit else f"{size_bytes // unit}{letter}"
    return f"{size_bytes}B"
