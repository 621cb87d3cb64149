"""How answers look: lines for people, tables in a terminal, JSON for programs.

Text from jobs and users is shown with its control characters escaped, so that no name can move the
cursor. Tables use rich; in a terminal they fit its width, columns that say least are left out for it, and ids are
cut to eight characters; in a pipe nothing is cut.
"""

import json
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from hostler.cli.asked import asked_lines
from hostler.cli.failures import Failure
from hostler.jobs import Advance, End, Job, JobSpec, LogStatus
from hostler.lifecycle import Outcome, State
from hostler.receipts import receipt_text
from hostler.shape import job_shape
from hostler.stages import StageView, stages_of
from hostler.state_text import state_text
from hostler.wording import counted
from hostler.workers import Worker, WorkerState

if TYPE_CHECKING:
    from rich.table import Table

SHORT_ID_CHARACTERS = 8
COMMAND_CHARACTERS_MAX = 500  # of a command in a table
CROPPED_COLUMNS = frozenset({"name", "command", "labels", "documentation", "path", "reason", "scopes", "worker"})
STATES = frozenset({"state", "end"})
CROPPED_CHARACTERS_MIN = 7  # a column that may be cut is worth as much
# Where a terminal has no room for all columns, those with nothing in them go first, and then these, in this order.
LEFT_OUT = (
    *("labels", "documentation", "scopes", "modified", "used", "took", "runtime", "owner", "age", "reason", "running"),
    *("version", "command", "job", "name"),
)
RESULT_CHARACTERS_MAX = 200  # of a result in a line
STEPS_SHOWN_MAX = 20
PIPE_WIDTH = 100_000  # wide enough that rich never cuts
GAP = 2  # blanks between two columns
LABEL_CHARACTERS = 10  # of the labels of fields
PLAIN_COLUMNS = 80  # of a terminal that does not say how wide it is


def say(message: str) -> None:
    """Print one line of ours for people to standard error; a terminal gets it broken to its width."""
    print(_fitted(f"hostler: {printable(message)}", sys.stderr, indent=2), file=sys.stderr, flush=True)


def print_line(text: str) -> None:
    """Print one line of an answer for people to standard output."""
    print(printable(text), flush=True)


def print_sentence(text: str) -> None:
    """Print a line of an answer; on a terminal it goes on, where it has to, at a blank and as far in as it began."""
    line = printable(text)
    print(_fitted(line, sys.stdout, indent=len(line) - len(line.lstrip())), flush=True)


def _fitted(line: str, stream: TextIO, *, indent: int) -> str:
    """The line as *stream* gets it: on a terminal broken at blanks to its width, and gone on with so far in."""
    if not stream.isatty():
        return line
    width = shutil.get_terminal_size(fallback=(0, 0)).columns  # as the environment says, or of standard output
    if not width:
        width = os.get_terminal_size(stream.fileno()).columns or PLAIN_COLUMNS
    return textwrap.fill(line, width, subsequent_indent=" " * min(indent, width // 3), break_on_hyphens=False)


def print_json(value: Any, *, to_stderr: bool = False) -> None:
    """Print *value* as one line of JSON, to standard output unless that is the job's."""
    print(json.dumps(value), file=sys.stderr if to_stderr else sys.stdout, flush=True)


def print_failure(failure: Failure, *, as_json: bool) -> None:
    """Print what went wrong and what to do next to standard error."""
    if as_json:
        said = {"code": failure.code, "message": failure.message, "hint": failure.hint or None}
        print_json({"error": said}, to_stderr=True)
        return
    say(failure.message)
    if failure.hint:
        print(_fitted(f"  next: {printable(failure.hint)}", sys.stderr, indent=4), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with everything that is no printable character escaped as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def command_text(argv: Sequence[str]) -> str:
    """An argv as one could type it."""
    return shlex.join(argv)


def work_text(spec: JobSpec) -> str:
    """What a job runs: its command, its workload with the version, or the workloads of its chain."""
    if spec.stages:
        return " | ".join(stage.workload for stage in spec.stages)
    if spec.workload:
        return f"{spec.workload} version {spec.workload_version}" if spec.workload_version else spec.workload
    if spec.work.python is not None and not spec.work.argv:
        return f"{spec.work.python.path}: {spec.work.python.entrypoint}(ctx, params)"
    return command_text(spec.work.argv)


def moment_text(at_us: int) -> str:
    """A time for people: local, with milliseconds; empty when not set."""
    return datetime.fromtimestamp(at_us / 1e6).astimezone().isoformat(" ", "milliseconds") if at_us else ""


def print_fields(lines: Iterable[tuple[str, str]]) -> None:
    """Print what is known about one thing: a label and its text a line."""
    for label, text in lines:
        line = printable(f"{label:<{LABEL_CHARACTERS}} {text}")
        print(_fitted(line, sys.stdout, indent=LABEL_CHARACTERS + 1), flush=True)


def print_job(job: Job) -> None:
    """Print everything known about a job."""
    print_fields(job_lines(job))


def print_table(names: Sequence[str], rows: Iterable[Sequence[str]], *, to_stderr: bool = False) -> None:
    """Print a table of texts, to standard output unless that is the jobs'."""
    console, _ = terminal_console(to_stderr=to_stderr)
    cut = [
        [_id_text(cell, console.width) if name == "job" else cell for name, cell in zip(names, row, strict=True)]
        for row in rows
    ]
    console.print(_table(names, [(row, "") for row in cut], console.width))


def show_jobs(jobs: Sequence[Job], *, as_json: bool) -> None:
    """Print these jobs: a table, or JSON."""
    if as_json:
        print_json({"jobs": [job_shape(job) for job in jobs]})
    elif jobs:
        print_jobs(jobs, now_us=time.time_ns() // 1000)
    else:
        say("no jobs")


def print_jobs(jobs: Iterable[Job], *, now_us: int) -> None:
    """Print a table of jobs."""
    console, narrow = terminal_console()
    console.print(jobs_table(jobs, now_us=now_us, width=console.width if narrow else PIPE_WIDTH))


def jobs_table(jobs: Iterable[Job], *, now_us: int, width: int) -> "Table":
    """A table of jobs for so many columns; on a terminal (less than `PIPE_WIDTH`) their ids are cut."""
    rows = list[tuple[Sequence[str], str]]()
    for job in jobs:
        command = work_text(job.spec)
        if len(command) > COMMAND_CHARACTERS_MAX:  # a table is padded to its longest cell
            command = command[:COMMAND_CHARACTERS_MAX] + "..."
        took = ""
        if job.started_at_us:
            took = span_text((job.finished_at_us or now_us) - job.started_at_us)
        cells = (
            _id_text(job.id, width),
            state_text(job),
            span_text(now_us - job.queued_at_us),
            took,
            job.spec.name,
            command,
        )
        rows.append((cells, job_style(job)))
    return _table(("id", "state", "age", "took", "name", "command"), rows, width)


def print_workers(workers: Iterable[Worker]) -> None:
    """Print a table of workers."""
    console, _ = terminal_console()
    rows = list[tuple[Sequence[str], str]]()
    for worker in workers:
        labels = " ".join(f"{name}={value}" for name, value in sorted(worker.labels.items()))
        style = "" if worker.state is WorkerState.CONNECTED else "yellow"
        running = f"{worker.running} of {worker.slots}"
        name = _id_text(worker.id, console.width)
        rows.append(((name, worker.name, worker.state.value, running, labels, worker.reason), style))
    names: Sequence[str] = ("id", "name", "state", "running", "labels", "reason")
    if not any(cells[-1] for cells, _ in rows):
        names, rows = names[:-1], [(cells[:-1], style) for cells, style in rows]
    console.print(_table(names, rows, console.width))


def job_lines(job: Job) -> Iterable[tuple[str, str]]:
    """Everything known about a job: a label and its text a line."""
    spec, end = job.spec, job.end
    yield "job", job.id
    if spec.name:
        yield "name", spec.name
    yield ("chain" if spec.stages else "workload" if spec.workload else "command"), work_text(spec)
    if spec.params:
        yield "params", _shortened(spec.params)
    if job.retry_of:
        yield "retry of", job.retry_of
    yield "state", state_text(job)
    if end is not None and (end.cause or end.evidence or end.error):
        yield "cause", ": ".join(part for part in (end.cause, end.error or end.evidence) if part)
    for reason in job.pending_reasons:
        yield "waits", reason
    if job.worker:  # one that waits to be tried again has none
        yield "worker", f"{job.worker}, attempt {job.attempt}, stage {job.stage}"
    for number, view in enumerate(stages_of(job)):
        yield "stage", _stage_text(number, view)
    yield from asked_lines(spec)
    yield from _retry_lines(job)
    yield from _time_lines(job)
    yield from _progress_lines(job.advance if end is None else end.advance)
    if end is not None:
        yield from _product_lines(end)
    yield "log", _log_text(job)
    usage = end.usage if end is not None else job.usage
    if usage is not None:
        cpu = f"cpu {usage.cpu_user_s:.2f} s user and {usage.cpu_system_s:.2f} s system"
        # A tree that lived for less than a second and stayed below its shim's own size was not measured.
        measured = f"at most {usage.memory_bytes_max / 1e6:.1f} MB" if usage.memory_bytes_max else "not measured"
        memory = f"memory {measured}"
        yield "usage", f"{cpu}, {memory}, {counted(usage.processes, 'process', 'processes')}"
    if end is not None:
        verified = f" (verified by {end.receipt.verified_by})" if end.receipt.verified_by else ""
        yield "receipt", receipt_text(end) + verified
    yield "owner", f"{spec.owner or '-'}, family {spec.family}"


def _retry_lines(job: Job) -> Iterable[tuple[str, str]]:
    if job.retried or job.spec.retries:
        due = f"; again at {moment_text(job.due_at_us)}" if job.due_at_us and job.state is State.QUEUED else ""
        after = f" after {', '.join(job.spec.retry_on)}" if job.spec.retry_on else ""
        yield "retried", f"{job.retried} of {job.spec.retries or 0} times{after}{due}"
    for past in job.past:
        if past.outcome is Outcome.SUCCEEDED:
            continue  # it is a stage, and shown as one
        cause = ": ".join(part for part in (past.end.cause, past.end.error or past.end.evidence) if part)
        stage = f"stage {past.stage} " if job.spec.stages else ""
        yield "before", f"{stage}attempt {past.attempt} {past.outcome.word.replace('_', ' ')}: {cause}"


def _stage_text(number: int, view: StageView) -> str:
    version = f" version {view.version}" if view.version else ""
    outcome = view.outcome.word.replace("_", " ") or view.state
    parts = [f"{number}: {view.workload}{version}", outcome]
    if view.worker:
        parts.append(f"attempt {view.attempt} on {view.worker}")
    if view.started_at_us and view.finished_at_us:
        parts.append(f"{(view.finished_at_us - view.started_at_us) / 1e6:.3f} s")
    elif view.started_at_us:
        parts.append(f"since {moment_text(view.started_at_us)}")
    if view.end is not None:
        parts += [f"result {text}" for text in _result_text(view.end)]
    return ", ".join(parts)


def _result_text(end: End) -> Iterable[str]:
    if end.result_digest:
        yield f"{end.result_bytes:,} bytes; hostler result ID prints them"
    elif end.result:
        yield _shortened(end.result[: 4 * RESULT_CHARACTERS_MAX].decode(errors="replace").strip())


def _progress_lines(advance: Advance) -> Iterable[tuple[str, str]]:
    if advance.percent is not None:
        yield "progress", f"{advance.percent} %"
    left_out = len(advance.steps) - STEPS_SHOWN_MAX
    if left_out > 0:
        yield "step", f"1 to {left_out} are left out here; --json has all"
    for number, step in enumerate(advance.steps, start=1):
        if number > left_out:
            took = f" ({step.duration_s:.1f} s)" if step.duration_s >= 0 else ""
            yield "step", f"{number}: {step.text}{took}"


def _product_lines(end: End) -> Iterable[tuple[str, str]]:
    for text in _result_text(end):
        yield "result", text
    if end.failure is not None:
        yield "failure", f"{end.failure.type}: {_shortened(end.failure.message)}"
        for line in end.failure.traceback.splitlines():
            yield "", line
    if end.outputs:
        yield "outputs", f"{end.outputs:,} {'file' if end.outputs == 1 else 'files'}; hostler outputs ls ID lists them"
    for missing in end.outputs_missing:
        yield "not kept", missing


def _shortened(text: str) -> str:
    return text if len(text) <= RESULT_CHARACTERS_MAX else f"{text[:RESULT_CHARACTERS_MAX]}..."


def _time_lines(job: Job) -> Iterable[tuple[str, str]]:
    before_us = 0
    for label, at_us in (
        ("queued", job.queued_at_us),
        ("assigned", job.assigned_at_us),
        ("started", job.started_at_us),
        ("finished", job.finished_at_us),
    ):
        if at_us:
            yield label, moment_text(at_us) + (f" (+{(at_us - before_us) / 1e6:.3f} s)" if before_us else "")
            before_us = at_us


def _log_text(job: Job) -> str:
    text = f"{job.log_bytes:,} bytes, {job.log_status.word}"
    if job.log_status is not LogStatus.LOST:
        return text
    return f"{text} ({job.log_lost_bytes:,} bytes)" if job.log_lost_bytes else f"{text} (how much is not known)"


def terminal_console(*, to_stderr: bool = False) -> tuple[Any, bool]:
    """What tables are drawn with, and whether it is a terminal, where ids are cut."""
    from rich.console import Console

    narrow = (sys.stderr if to_stderr else sys.stdout).isatty()
    width = None if narrow else PIPE_WIDTH
    return Console(stderr=to_stderr, width=width, highlight=False, markup=False, emoji=False), narrow


def _table(names: Sequence[str], rows: Sequence[tuple[Sequence[str], str]], width: int) -> "Table":
    """Rows of texts, each with how it is drawn, in so many columns of a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    texts = [[Text(printable(cell), no_wrap=True, overflow="ellipsis") for cell in cells] for cells, _ in rows]
    kept, fits = _columns_kept(names, [[text.cell_len for text in line] for line in texts], width)
    if not fits:
        for line in texts:
            line[:] = [
                Text(state_word(cell.plain)) if name in STATES else cell for name, cell in zip(names, line, strict=True)
            ]
    for place in kept:
        # Where room is missing, rich takes it from the columns that could wrap, and from the widest of them first.
        table.add_column(names[place].upper(), no_wrap=names[place] not in CROPPED_COLUMNS, overflow="ellipsis")
    for line, (_, style) in zip(texts, rows, strict=True):
        table.add_row(*(line[place] for place in kept), style=style)
    return table


def _columns_kept(names: Sequence[str], sizes: Sequence[Sequence[int]], width: int) -> tuple[list[int], bool]:
    """The places of the columns that a width has room for, and whether it has it for all that has to stay."""
    widest = [max((line[place] for line in sizes), default=0) for place in range(len(names))]
    least = list[int]()
    for name, size in zip(names, widest, strict=True):
        needed = max(size, len(name))
        least.append(min(needed, CROPPED_CHARACTERS_MIN) if name in CROPPED_COLUMNS else needed)
    kept = list(range(len(names)))
    spare = [place for place in kept if names[place] in LEFT_OUT]

    def fits() -> bool:
        return sum(least[place] for place in kept) + GAP * (len(kept) - 1) <= width

    for place in sorted(spare, key=lambda place: (widest[place] > 0, LEFT_OUT.index(names[place]))):
        if fits():
            break
        kept.remove(place)
    return kept, fits()


def _id_text(name: str, width: int) -> str:
    """An id, cut on a terminal."""
    return name[:SHORT_ID_CHARACTERS] if width < PIPE_WIDTH else name


def state_word(text: str) -> str:
    """A state without what it says behind a colon, for where that has no room: ``stopped`` of ``stopped: SIGKILL``."""
    return text.partition(":")[0]


def job_style(job: Job) -> str:
    """How the line of a job is drawn."""
    if job.state is State.FINISHED:
        return "" if job.outcome is Outcome.SUCCEEDED else "red"
    return "green" if job.state is State.RUNNING else "yellow"


def span_text(span_us: int) -> str:
    """A length of time in few characters: ``90s``, ``2m``, ``5h``, ``3d``."""
    seconds = max(0, span_us) // 1_000_000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
