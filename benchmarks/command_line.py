"""What the command lines of the benchmarks share: arguments, the line about the machine, the line of progress."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path


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
