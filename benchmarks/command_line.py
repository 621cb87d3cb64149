"""What the command lines of the benchmarks share: arguments, their course, the lines about machine and progress."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from benchmarks.processes import BenchError, end_on_signals

INTERRUPTED = 130
Measured = TypeVar("Measured")


class Number:
    """An argument between two bounds."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not self._least <= int(text) <= self._most:
            raise argparse.ArgumentTypeError(f"a number from {self._least} to {self._most} is expected")
        return int(text)


class Names:
    """An argument of some of the *known* names, with commas between; their case does not matter."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = {name.casefold(): name for name in known}

    def __call__(self, text: str) -> frozenset[str]:
        given = [self._known.get(name.casefold()) for name in text.split(",")]
        if None in given:
            raise argparse.ArgumentTypeError(f"of {', '.join(self._known.values())}, with commas between")
        return frozenset(name for name in given if name is not None)


def carry_out(
    place: Path | None, measure: Callable[[], Measured], told: Callable[[Measured, str], str]
) -> Measured | int:
    """Measure on the disk of *place* and print what *told* makes of it and of the machine.

    Returns what was measured, or the exit status when something could not be.
    """
    end_on_signals()
    machine = describe_machine(place)
    try:
        found = measure()
    except BenchError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        show_progress("")
    print(told(found, machine))
    return found


def describe_machine(place: Path | None) -> str:
    """One line on what the figures are of, and how busy it was before."""
    directory = (place or Path(tempfile.gettempdir())).resolve()
    return (
        f"{len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}, Python {platform.python_version()}, "
        f"data on {_file_system(directory)} ({directory}), load {os.getloadavg()[0]:.2f} before the start"
    )


def _file_system(directory: Path) -> str:
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, type_ = line.split()[:3]
        if directory.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def show_progress(what: str) -> None:
    """Replace the line of progress, where a person looks on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
