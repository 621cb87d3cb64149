"""The workload ``report``: looks at a file and draws what is in it.

A histogram of the file's bytes, or of the numbers in one column of a CSV file, as SVG, PNG and a page
of HTML. Standard library alone: the PNG is written by hand. The file is read piece by piece, so
memory stays flat whatever its size.
"""

import codecs
import csv
import hashlib
import html
import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hostler.script import Context

PIECE_BYTES = 1024 * 1024
STEP_BYTES = 64 * 1024 * 1024  # read in one step of the progress, at least
READING_STEPS_MAX = 10
LINE_CHARACTERS_MAX = 1024 * 1024
BINS = 40
NAMES_MAX = 50
NUMBER_MAX = 1e150  # its square can still be held
WIDTH, HEIGHT = 960, 480
LEFT, TOP, RIGHT, BOTTOM = 84, 84, 44, 52

INK, FAINT, GRID, PAPER = "#1f2933", "#7b8794", "#e4e7eb", "#ffffff"
PRINTABLE, CONTROL, HIGH = "#2f6fde", "#9aa5b1", "#e8833a"

# Five columns a character, the lowest bit on top.
CHARACTERS = " !%()+,-./0123456789:ABCDEFGHIJKLMNOPQRSTUVWXYZ_?"
COLUMNS = bytes.fromhex(
    "0000000000 00005f0000 2313086462 001c224100 0041221c00 08083e0808 0080703000 0808080808 0000606000 2010080402 "
    "3e5149453e 00427f4000 7249494946 2141494d33 1814127f10 2745454539 3c4a494931 4121110907 3649494936 464949291e "
    "0000140000 7c1211127c 7f49494936 3e41414122 7f4141413e 7f49494941 7f09090901 3e41415173 7f0808087f 00417f4100 "
    "2040413f01 7f08142241 7f40404040 7f021c027f 7f0408107f 3e4141413e 7f09090906 3e4151215e 7f09192946 2649494932 "
    "03017f0103 3f4040403f 1f2040201f 3f4038403f 6314081463 0304780403 6159494d43 4040404040 0201590906"
)
GLYPHS = {character: COLUMNS[5 * place : 5 * place + 5] for place, character in enumerate(CHARACTERS)}


def main(ctx: "Context", params: dict[str, Any]) -> dict[str, Any]:
    """Look at the input file and draw what is in it."""
    file = ctx.input_file
    if file is None:
        raise ValueError("give the job a file to report on")
    column, title = params.get("column"), params.get("title") or file.name
    size = file.stat().st_size
    readings = min(READING_STEPS_MAX, max(1, size // STEP_BYTES))
    ctx.total(readings + (2 if column is not None else 0) + 2)
    facts = read_bytes(file, size, ctx, readings)
    if column is None:
        chart, histogram = chart_of_bytes(title, facts)
    else:
        chart, histogram = chart_of_column(title, file, column, params.get("bins", BINS), ctx)
    summary = {**facts.summary(file.name), "histogram": histogram}
    ctx.step("drawing the histogram")
    svg, png = SvgCanvas(), PngCanvas()
    draw(chart, svg)
    draw(chart, png)
    (ctx.output_dir / "histogram.svg").write_text(svg.document(), encoding="utf-8")
    (ctx.output_dir / "histogram.png").write_bytes(png.encode())
    ctx.step("writing the report")
    (ctx.output_dir / "report.html").write_text(page(title, summary, svg.document()), encoding="utf-8")
    (ctx.output_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"{file.name}: {size} bytes, {facts.kind}; see report.html")
    ctx.done()
    # The bars are in summary.json; whoever looks at the job wants what they tell.
    told = {name: one for name, one in histogram.items() if name not in ("counts", "edges")}
    return {**summary, "histogram": told}


# Reading


@dataclass(slots=True)
class ByteFacts:
    """What one reading of a file tells."""

    size: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * 256)
    sha256: str = ""
    is_utf8: bool = True
    ends_line: bool = True

    @property
    def kind(self) -> str:
        """``empty``, ``text`` (UTF-8 without a NUL) or ``binary``."""
        if not self.size:
            return "empty"
        return "text" if self.is_utf8 and not self.counts[0] else "binary"

    @property
    def entropy_bits(self) -> float:
        """How many bits a byte of it tells, from 0 to 8."""
        shares = [count / self.size for count in self.counts if count]
        return round(abs(sum(share * math.log2(share) for share in shares)), 4)

    def summary(self, name: str) -> dict[str, Any]:
        """As it stands in summary.json."""
        common = sorted(range(256), key=lambda value: -self.counts[value])[:5]
        return {
            "file": name,
            "bytes": self.size,
            "sha256": self.sha256,
            "kind": self.kind,
            "lines": self.counts[10] + (not self.ends_line) if self.kind != "binary" else None,
            "entropy_bits": self.entropy_bits,
            "distinct_bytes": sum(1 for count in self.counts if count),
            "most_common": [{"byte": value, "count": self.counts[value]} for value in common if self.counts[value]],
        }


def read_bytes(file: Path, size: int, ctx: "Context", steps: int) -> ByteFacts:
    """Read the whole file once, in *steps* steps of the progress."""
    facts = ByteFacts()
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    begun = 0
    with file.open("rb") as source:
        while True:
            if begun < steps and facts.size >= begun * size // steps:
                begun += 1
                ctx.step(f"reading {file.name}" if steps == 1 else f"reading {file.name}, part {begun} of {steps}")
            piece = source.read(PIECE_BYTES)
            for value, count in Counter(piece).items():
                facts.counts[value] += count
            digest.update(piece)
            if facts.is_utf8:
                try:
                    decoder.decode(piece, final=not piece)
                except UnicodeDecodeError:
                    facts.is_utf8 = False
            if not piece:
                break
            facts.size += len(piece)
            facts.ends_line = piece.endswith(b"\n")
    facts.sha256 = digest.hexdigest()
    return facts


def read_rows(source: IO[str]) -> Iterator[list[str]]:
    """Yield the rows of a CSV file whose delimiter is the one that its first line has most of."""
    first = source.readline(LINE_CHARACTERS_MAX)
    source.seek(0)
    delimiter = max(",;\t|", key=first.count)
    return (row for row in csv.reader(_lines(source), delimiter=delimiter) if row)


def _lines(source: IO[str]) -> Iterator[str]:
    while line := source.readline(LINE_CHARACTERS_MAX):
        if len(line) == LINE_CHARACTERS_MAX:
            raise ValueError(f"a line has more than {LINE_CHARACTERS_MAX} characters: this is no CSV file")
        yield line


def numbers_of(file: Path, column: str | int, seen: dict[str, Any]) -> Iterator[float]:
    """Yield the numbers of a column; how many cells held none is counted in ``seen["not_numbers"]``."""
    seen["not_numbers"] = 0
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as source:
        rows = read_rows(source)
        try:
            header = next(rows, None)
            if header is None:
                raise ValueError("the file has no rows")
            place = place_of(column, header)
            seen["column"] = header[place]
            number = _number(header[place])
            if number is not None:  # no header after all
                seen["column"] = f"column {place + 1}"
                yield number
            for row in rows:
                number = _number(row[place]) if place < len(row) else None
                if number is None:
                    seen["not_numbers"] += 1
                else:
                    yield number
        except csv.Error as error:
            raise ValueError(f"this is no CSV file: {error}") from error


def place_of(column: str | int, header: list[str]) -> int:
    """Find a column by its name, or by its number from 1. ValueError: there is none."""
    names = [name.strip() for name in header]
    if isinstance(column, str) and column.strip() in names:
        return names.index(column.strip())
    if str(column).isascii() and str(column).isdigit() and 1 <= int(column) <= len(names):
        return int(column) - 1
    known = ", ".join(map(repr, names[:NAMES_MAX]))
    raise ValueError(f"there is no column {column!r}; there are {known}")


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if abs(number) <= NUMBER_MAX else None  # not so of infinities and of NaN


# Charts


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A histogram, before it is drawn."""

    title: str
    subtitle: str
    bars: list[int]
    colours: list[str]
    ticks: list[tuple[float, str]]  # where on the x axis, from 0 to 1, and what stands there
    legend: list[tuple[str, str]]  # colour and text


def chart_of_bytes(title: str, facts: ByteFacts) -> tuple[Chart, dict[str, Any]]:
    """The histogram of all byte values."""
    colours = [HIGH if value > 126 else PRINTABLE if value > 31 else CONTROL for value in range(256)]
    chart = Chart(
        title=title,
        subtitle=f"{facts.size:,} bytes, {facts.kind}, {facts.entropy_bits:.2f} bits per byte",
        bars=facts.counts,
        colours=colours,
        ticks=[((value + 0.5) / 256, f"{value:02X}") for value in (*range(0, 256, 32), 255)],
        legend=[(CONTROL, "control"), (PRINTABLE, "printable"), (HIGH, "above ASCII")],
    )
    return chart, {"of": "bytes", "counts": facts.counts}


def chart_of_column(
    title: str, file: Path, column: str | int, bins: int, ctx: "Context"
) -> tuple[Chart, dict[str, Any]]:
    """The histogram of a column's numbers: one reading for their range, one to count. ValueError: it has none."""
    seen: dict[str, Any] = {}
    count, mean, squares, least, most = 0, 0.0, 0.0, math.inf, -math.inf
    ctx.step(f"looking for the range of {column}")
    for number in numbers_of(file, column, seen):
        count += 1
        off = number - mean
        mean += off / count
        squares += off * (number - mean)
        least, most = min(least, number), max(most, number)
    if not count:
        raise ValueError(f"there are no numbers in {seen['column']}")
    margin = 0.0 if least < most else max(0.5, abs(least) / 100)
    low, high = least - margin, most + margin
    ctx.step(f"counting {count:,} numbers")
    counts = [0] * bins
    for number in numbers_of(file, column, seen):
        counts[min(bins - 1, int((number - low) / (high - low) * bins))] += 1
    chart = Chart(
        title=title,
        subtitle=f"{seen['column']}: {count:,} numbers from {least:.6g} to {most:.6g}, mean {mean:.6g}",
        bars=counts,
        colours=[PRINTABLE] * bins,
        ticks=[(part / 4, f"{low + (high - low) * part / 4:.4g}") for part in range(5)],
        legend=[],
    )
    histogram = {
        "of": "column",
        "column": seen["column"],
        "edges": [low + (high - low) * number / bins for number in range(bins + 1)],
        "counts": counts,
        "numbers": count,
        "not_numbers": seen["not_numbers"],
        "least": least,
        "most": most,
        "mean": mean,
        "deviation": math.sqrt(squares / count),
    }
    return chart, histogram


class Canvas(Protocol):
    """What a chart is drawn on; pixels from the top left."""

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Fill a rectangle."""

    def text(self, x: float, y: float, words: str, colour: str, *, anchor: str = "start", large: bool = False) -> None:
        """Write; *y* is the base line, *anchor* is start, middle or end."""


def draw(chart: Chart, canvas: Canvas) -> None:
    """Draw a chart."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    base = TOP + height
    canvas.rect(0, 0, WIDTH, HEIGHT, PAPER)
    canvas.text(LEFT, 36, _cut(chart.title, 23 if chart.legend else 46), INK, large=True)
    canvas.text(LEFT, 62, _cut(chart.subtitle, 69), FAINT)
    x = WIDTH - RIGHT
    for colour, words in reversed(chart.legend):
        canvas.text(x, 36, words, FAINT, anchor="end")
        x -= 12 * len(words) + 18
        canvas.rect(x, 26, 12, 12, colour)
        x -= 18
    most = max(chart.bars)
    step = nice_step(most)
    top = step * max(1, math.ceil(most / step))
    for value in range(0, top + 1, step):
        y = base - height * value / top
        canvas.rect(LEFT, y, width, 1, GRID if value else FAINT)
        canvas.text(LEFT - 10, y + 5, short(value), FAINT, anchor="end")
    slot = width / len(chart.bars)
    gap = 1.0 if slot >= 3 else 0.0
    for number, (count, colour) in enumerate(zip(chart.bars, chart.colours, strict=True)):
        if count:  # what is there is seen, however little it is
            bar = max(1.5, height * count / top)
            canvas.rect(LEFT + number * slot, base - bar, slot - gap, bar, colour)
    for where, words in chart.ticks:
        canvas.rect(LEFT + width * where, base, 1, 6, FAINT)
        canvas.text(LEFT + width * where, base + 26, words, FAINT, anchor="middle")


def nice_step(most: int) -> int:
    """A step of 1, 2 or 5 times a power of ten that gives at most five lines up to *most*."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step * 5 >= most:
                return step
        power *= 10


def short(count: int) -> str:
    """A number in few characters: 1200000 is 1.2M."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.4g}{letter}"
    return str(count)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


class SvgCanvas:
    """Draws SVG."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """See `Canvas`."""
        self._parts.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}"/>')

    def text(self, x: float, y: float, words: str, colour: str, *, anchor: str = "start", large: bool = False) -> None:
        """See `Canvas`."""
        style = ' font-size="22" font-weight="600"' if large else ""
        self._parts.append(
            f'<text x="{x:.2f}" y="{y:.2f}" fill="{colour}" text-anchor="{anchor}"{style}>{_escaped(words)}</text>'
        )

    def document(self) -> str:
        """The file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="14">{"".join(self._parts)}</svg>\n'
        )


class PngCanvas:
    """Draws PNG: 8 bits each of red, green and blue."""

    def __init__(self) -> None:
        self._rows = [bytearray(3 * WIDTH) for _ in range(HEIGHT)]

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """See `Canvas`; at least one pixel is filled."""
        left, top = max(0, round(x)), max(0, round(y))
        right, bottom = min(WIDTH, max(left + 1, round(x + width))), min(HEIGHT, max(top + 1, round(y + height)))
        if left < right:
            line = bytes.fromhex(colour[1:]) * (right - left)
            for row in self._rows[top:bottom]:
                row[3 * left : 3 * right] = line

    def text(self, x: float, y: float, words: str, colour: str, *, anchor: str = "start", large: bool = False) -> None:
        """See `Canvas`; capital letters of 5 by 7 squares."""
        pixel = 3 if large else 2
        x -= {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * (6 * len(words) - 1) * pixel
        for character in words.upper():
            for across, column in enumerate(GLYPHS.get(character, GLYPHS["?"])):
                for down in range(8):
                    if column >> down & 1:
                        self.rect(x + across * pixel, y + (down - 7) * pixel, pixel, pixel, colour)
            x += 6 * pixel

    def encode(self) -> bytes:
        """The file."""
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row for row in self._rows), 9)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# The page

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #616e7c; --paper: #f5f7fa; --card: #fff; --line: #e4e7eb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f5f7fa; --faint: #9aa5b1; --paper: #1a2129; --card: #242e39; --line: #3e4c59; } }
body { margin: 0; padding: 2.5rem 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: auto; } h1 { margin: 0 0 .25rem; font-size: 1.6rem; overflow-wrap: anywhere; }
p { margin: 0 0 1.5rem; color: var(--faint); overflow-wrap: anywhere; }
figure, dl, nav { margin: 0 0 1.5rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
figure { overflow: hidden; } svg { display: block; width: 100%; height: auto; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; padding: 1.25rem; }
dt { color: var(--faint); font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
nav { padding: .75rem 1.25rem; } a { color: #2f6fde; margin-right: 1rem; }
"""


def page(title: str, summary: dict[str, Any], svg: str) -> str:
    """The report as one page that needs nothing from anywhere."""
    histogram = summary["histogram"]
    facts = [("Size", f"{summary['bytes']:,} bytes"), ("Kind", summary["kind"])]
    if summary["lines"] is not None:
        facts.append(("Lines", f"{summary['lines']:,}"))
    facts += [
        ("Different bytes", f"{summary['distinct_bytes']} of 256"),
        ("Entropy", f"{summary['entropy_bits']:.2f} bits per byte"),
        ("Most common", ", ".join(_byte(each["byte"]) for each in summary["most_common"]) or "none"),
    ]
    if histogram["of"] == "column":
        facts += [("Column", histogram["column"])]
        facts += [(name.capitalize(), f"{histogram[name]:.6g}") for name in ("least", "most", "mean", "deviation")]
        facts += [("Numbers", f"{histogram['numbers']:,}"), ("Other cells", f"{histogram['not_numbers']:,}")]
    cells = "".join(f"<div><dt>{_escaped(name)}</dt><dd>{_escaped(fact)}</dd></div>" for name, fact in facts)
    links = "".join(f'<a href="{name}">{name}</a>' for name in ("histogram.svg", "histogram.png", "summary.json"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title><style>{STYLE}</style></head><body><main>\n"
        f"<h1>{_escaped(title)}</h1><p>{_escaped(summary['file'])}, SHA-256 {summary['sha256']}</p>\n"
        f"<figure>{svg}</figure>\n<dl>{cells}</dl>\n<nav>{links}</nav>\n</main></body></html>\n"
    )


def _byte(value: int) -> str:
    names = {0: "NUL", 9: "tab", 10: "line end", 13: "return", 32: "space"}
    return names.get(value) or (chr(value) if 32 < value < 127 else f"0x{value:02X}")


def _escaped(text: str) -> str:
    # Control characters, which XML does not allow, become a sign for what cannot be shown; half a surrogate too.
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return html.escape(shown)
