"""Turns what was measured into rows and tables. Pure: it reads nothing but its arguments."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks import rounds
from benchmarks.clusters import AGENT, CLIENT, COORDINATOR, GATEWAY, SPAWNING
from benchmarks.rounds import BARE, NO_OVERLAP, PRODUCT, PROTOTYPE, Options, Series

CONTROL_PLANE: Final = (COORDINATOR, AGENT, SPAWNING)  # of P3; the gateway is told apart
COMPONENTS: Final = (*CONTROL_PLANE, GATEWAY, CLIENT)
NONE: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table of targets."""

    target: str
    what: str
    median: float
    best: float
    pass_line: str  # as people read it; empty: shown beside, and judged by nobody
    ok: bool | None  # None: there is no pass line


class Line(NamedTuple):
    """A target: the product's values, what they are divided by, and where the line is (0: there is none)."""

    target: str
    what: str
    over: list[float]
    under: list[float]
    limit: float
    higher_is_better: bool

    def rows(self) -> Iterable[Row]:
        """The row, when everything in it was measured."""
        if not self.over or not self.under:
            return
        best: Callable[[Iterable[float]], float] = max if self.higher_is_better else min
        # The median is that of ratios within a round; the best is that of the best of both sides.
        middle = median(a / b for a, b in zip(self.over, self.under, strict=False))
        good = middle >= self.limit if self.higher_is_better else middle <= self.limit
        yield Row(
            target=self.target,
            what=self.what,
            median=middle,
            best=best(self.over) / best(self.under),
            pass_line=f"{'>=' if self.higher_is_better else '<='} {self.limit:g}" if self.limit else "",
            ok=good if self.limit else None,
        )


def target_rows(series: Series, options: Options) -> list[Row]:
    """The table of targets: those that were asked for, in order."""
    return [row for line in _lines(series) if options.asks(line.target) for row in line.rows()]


def _lines(series: Series) -> list[Line]:
    def of(quantity: str, contestant: str = PRODUCT) -> list[float]:
        return series.of(contestant, quantity)

    batch, bare = of(rounds.BATCH), of(rounds.P50, BARE)
    one = [1.0] * len(of(rounds.PSS))
    limit, limit_of_single, limit_of_tiny, limit_cpu = map(
        of, (rounds.LIMIT_OF_BATCH, rounds.LIMIT_OF_SINGLE, rounds.LIMIT_OF_TINY, rounds.LIMIT_CPU_OF_BATCH)
    )
    higher = [
        ("P1", "jobs/s, 200 a POST / C loop", batch, limit, 0.70),
        ("P2", "jobs/s, one a POST, 16 connections / C loop", of(rounds.SINGLE), limit_of_single, 0.45),
        ("P4", "jobs/s of a program without libc / C loop", of(rounds.TINY), limit_of_tiny, 0.38),
        ("P10", "jobs/s / prototype's", batch, of(rounds.BATCH, PROTOTYPE), 0.9),
        ("P10", "jobs/s / prototype's without overlap", batch, of(rounds.BATCH, NO_OVERLAP), 0.0),
    ]
    lower = [
        ("P3", "control-plane CPU a job / the C loop's", control_plane(series), limit_cpu, 0.35),
        ("P5", "submit to known end, p50 / bare p50", of(rounds.P50), bare, 3.5),
        ("P5", "submit to known end, p99 / bare p50", of(rounds.P99), bare, 10.0),
        ("P8", "MB: coordinator, gateway, one worker", of(rounds.PSS), one, 90.0),
        ("P8", "MB: a further worker", of(rounds.PSS_OF_WORKER), one, 32.0),
    ]
    lines = [Line(*line, True) for line in higher] + [Line(*line, False) for line in lower]
    return sorted(lines, key=lambda line: rounds.TARGETS.index(line.target))


def control_plane(series: Series, contestant: str = PRODUCT) -> list[float]:
    """CPU us a job of coordinator, agent, launcher and shims, in each round; batches of 200."""
    by_component = series.cpu_of(contestant, rounds.CPU_OF_BATCH)
    return [sum(values) for values in zip(*(by_component.get(name, []) for name in CONTROL_PLANE), strict=False)]


def cpu_rows(series: Series) -> list[list[str]]:
    """The table of CPU us a job: a row a component, a column a contestant; the first row is its head."""
    columns = [
        (f"{who}: {what}", series.cpu_of(who, what))
        for who in (PRODUCT, PROTOTYPE, NO_OVERLAP)
        for what in (rounds.CPU_OF_BATCH, rounds.CPU_OF_SINGLE, rounds.CPU_OF_TINY)
        if series.cpu_of(who, what)
    ]
    rows = [["CPU us a job", *(name for name, _ in columns)]]
    for part in COMPONENTS:
        rows.append([part, *(f"{median(cpu[part]):.0f}" if part in cpu else NONE for _, cpu in columns)])
    total = "coordinator + agent + launcher + shims"
    rows.append([total, *(f"{sum(median(cpu[p]) for p in CONTROL_PLANE if p in cpu):.0f}" for _, cpu in columns)])
    return rows


def contestant_rows(series: Series) -> list[list[str]]:
    """The table of what each contestant did; the first row is its head."""
    rows = [
        [
            "median (best)",
            "jobs/s, 200 a POST",
            "x C loop",
            "jobs/s, one a POST",
            "x C loop",
            "jobs/s, no libc",
            "x C loop",
            "p50 ms",
            "p99 ms",
            "CPU us a job with its own",
        ]
    ]
    for name in rounds.contestants(series):
        batch, single, tiny = (series.of(name, rate) for rate in (rounds.BATCH, rounds.SINGLE, rounds.TINY))
        rows.append(
            [
                name,
                rate_text(batch),
                ratio_text(batch, series.of(name, rounds.LIMIT_OF_BATCH)),
                rate_text(single),
                ratio_text(single, series.of(name, rounds.LIMIT_OF_SINGLE)),
                rate_text(tiny),
                ratio_text(tiny, series.of(name, rounds.LIMIT_OF_TINY)),
                _number(series.of(name, rounds.P50), 2),
                _number(series.of(name, rounds.P99), 2),
                _number(series.of(name, rounds.CPU), 0),
            ]
        )
    return rows


def as_text(series: Series, options: Options, machine: str) -> str:
    """Everything, for people."""
    tables = [targets_table(target_rows(series, options)), table(contestant_rows(series))]
    if series.cpu_us:
        tables.append(table(cpu_rows(series)))
    return "\n\n".join((machine, *tables))


def targets_table(rows: Iterable[Row]) -> str:
    """The table of targets, for people."""
    lines = [["target", "what", "median", "best", "pass line", "ok?"]]
    for row in rows:
        ok = NONE if row.ok is None else "yes" if row.ok else "NO"
        lines.append([row.target, row.what, f"{row.median:.2f}", f"{row.best:.2f}", row.pass_line or NONE, ok])
    return table(lines)


def as_json(series: Series, options: Options, machine: str) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": machine,
        "rounds": options.rounds,
        "jobs": options.jobs,
        "samples": options.samples,
        "targets": [asdict(row) for row in target_rows(series, options)],
        "values": [
            {"contestant": contestant, "quantity": quantity, "rounds": values}
            for (contestant, quantity), values in series.values.items()
        ],
        "cpu_us_per_job": [
            {"contestant": contestant, "load": what, "component": component, "rounds": values}
            for (contestant, what, component), values in series.cpu_us.items()
        ],
    }


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def rate_text(values: list[float]) -> str:
    """The median of all rounds, and the best."""
    return f"{median(values):.0f} ({max(values):.0f})" if values else NONE


def ratio_text(over: list[float], under: list[float]) -> str:
    """The median of the rounds' ratios."""
    return f"{median(a / b for a, b in zip(over, under, strict=False)):.2f}" if over and under else NONE


def _number(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f}" if values else NONE
