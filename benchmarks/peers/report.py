"""Turns what was measured into rows and tables. Pure: it reads nothing but its arguments."""

import textwrap
from dataclasses import asdict
from typing import Any, Final

from benchmarks.peers.rounds import LIMIT, OURS, RATE, Options, Results
from benchmarks.report import NONE, Line, Row, rate_text, ratio_text, table, targets_table
from benchmarks.rounds import C_LOOP, PRODUCT

TARGET: Final = "P6"


def target_rows(results: Results, options: Options) -> list[Row]:
    """The table of targets: a row for each peer that was measured."""
    lines = [
        Line(
            target=TARGET,
            what=f"jobs/s / {peer.name}",
            over=results.series.of(peer.name, OURS),
            under=results.series.of(peer.name, RATE),
            limit=peer.least,
            higher_is_better=True,
        )
        for peer in options.peers
    ]
    return [row for line in lines for row in line.rows()]


def contestant_rows(results: Results, options: Options) -> list[list[str]]:
    """The table of what each contestant did; the first row is its head."""
    rows = [["median (best)", "version", "jobs/s", "x C loop"]]
    for name in (C_LOOP, *(peer.name for peer in options.peers), PRODUCT):
        rates, limits = results.series.of(name, RATE), results.series.of(name, LIMIT)
        if rates:
            rows.append([name, results.versions.get(name, NONE), rate_text(rates), ratio_text(rates, limits)])
    return rows


def as_text(results: Results, options: Options, machine: str) -> str:
    """Everything, for people."""
    parts = [machine, targets_table(target_rows(results, options)), table(contestant_rows(results, options))]
    for name, reason in results.left_out.items():
        parts.append(f"Left out: {name}\n{textwrap.indent(reason, '  ')}")
    return "\n\n".join(parts)


def as_json(results: Results, options: Options, machine: str) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": machine,
        "rounds": options.rounds,
        "jobs": options.jobs,
        "targets": [asdict(row) for row in target_rows(results, options)],
        "values": [
            {"contestant": contestant, "quantity": quantity, "rounds": values}
            for (contestant, quantity), values in results.series.values.items()
        ],
        "versions": results.versions,
        "left_out": results.left_out,
    }
