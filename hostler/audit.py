"""The audit log as files: the form of its lines, how they are chained, and whether a log is whole.

Reads files and nothing else, so that it works on a copy, without a cluster. A log is a directory of
``FIRST.jsonl`` (FIRST is the number of its first entry) and a file ``head`` with the newest number and hash. A line
is an entry as a JSON object that ends in ``"hash"``: the SHA-256 over the hash of the entry before and the line as it
is without its own. The first line of a file says after which hash it goes on, so old files can go.
"""

import hashlib
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ALLOWED = "allowed"
REFUSED = "refused"
NOTED = "noted"  # what the coordinator did by itself
EXPIRED = "audit/Expire"  # the action of the entry that old files were removed; its target is the last number of them
SUFFIX = ".jsonl"
HEAD = "head"
NO_HASH = "0" * 64  # what the first entry of all goes on from
LINE_BYTES_MAX = 64 * 1024
_HASHED = re.compile(rb',"hash":"([0-9a-f]{64})"}\n')
_HASHED_BYTES = len(',"hash":""}\n') + 64
_OPENING = re.compile(rb'{"after":"([0-9a-f]{64})"}\n')
_HEAD = re.compile(r"([0-9]{1,19}) ([0-9a-f]{64})\n")


class Entry(NamedTuple):
    """One decision."""

    number: int
    at_us: int  # microseconds since the epoch
    principal: str
    credential: str  # the key's id, the certificate's serial, or "local"
    address: str  # of the caller
    action: str  # "Jobs/Submit"
    target: str  # the job, worker, key or workload it is about
    decision: str  # allowed, refused or noted
    detail: str  # why it was refused; the digest of what was submitted
    hash: str = ""  # in hex


class Head(NamedTuple):
    """The newest entry of a log."""

    number: int = 0
    hash: str = NO_HASH


class Verified(NamedTuple):
    """What looking through a log has found."""

    entries: int
    first: int  # number of the first entry; 0: there is none
    head: Head
    problem: str = ""  # what is wrong, with file and line; empty: the log is whole


class Broken(Exception):
    """A line that does not follow on the one before; the text says where and why."""


class Torn(Broken):
    """The last line of a file is not whole: it is being written, or its writer was killed."""


def line_of(entry: Entry, after: str) -> tuple[bytes, str]:
    """The line of an entry that goes on from the hash *after*, and the entry's own hash."""
    # Pure ASCII: a line is a line for every reader, whatever is in a name.
    body = json.dumps(dict(zip(Entry._fields[:-1], entry, strict=False)), separators=(",", ":"))
    digest = chained(after, body.encode())
    return f'{body[:-1]},"hash":"{digest}"}}\n'.encode(), digest


def opening_of(after: str) -> bytes:
    """The first line of a file."""
    return f'{{"after":"{after}"}}\n'.encode()


def chained(after: str, body: bytes) -> str:
    """The hash of an entry's line without its hash."""
    return hashlib.sha256(after.encode() + body).hexdigest()


def read_line(line: bytes) -> Entry:
    """Take a line apart; its hash is not compared.

    Raises:
        Broken: it is no line of an audit log.
    """
    match = _HASHED.fullmatch(line, max(0, len(line) - _HASHED_BYTES))
    if match is None:
        raise Broken("it does not end in a hash")
    try:
        found = json.loads(line)
        entry = Entry(**found)
    except (ValueError, TypeError, RecursionError) as error:
        raise Broken("it is no entry") from error
    if not isinstance(entry.number, int) or not isinstance(entry.at_us, int) or entry.number < 1:
        raise Broken("it is no entry")
    if not all(isinstance(text, str) for text in entry[2:]):
        raise Broken("it is no entry")
    return entry


def body_of(line: bytes) -> bytes:
    """What of a line its hash is over."""
    return line[:-_HASHED_BYTES] + b"}"


def files_of(directory: Path) -> list[Path]:
    """The files of a log, oldest first."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def name_of(first: int) -> str:
    """The name of the file that begins with the entry of this number."""
    return f"{first:012}{SUFFIX}"


def read_head(directory: Path) -> Head | None:
    """What the file ``head`` says; None when it is not there or says nothing."""
    try:
        match = _HEAD.match((directory / HEAD).read_text())
    except (OSError, ValueError):
        return None
    return Head(int(match[1]), match[2]) if match is not None else None


def head_text(head: Head) -> bytes:
    """The content of the file ``head``: of one length, so that writing it over is writing one block."""
    return f"{head.number:019} {head.hash}\n".encode()


def whole_lines(path: Path, after: Head | None) -> Iterator[tuple[int, Entry]]:
    """The entries of one file with the numbers of their lines, each checked to follow on the one before.

    Args:
        path: the file.
        after: the entry before its first one; None: take its opening's word.

    Raises:
        Broken: a line does not follow; the text says which.
    """
    with path.open("rb") as file:
        opening = _OPENING.fullmatch(file.readline(LINE_BYTES_MAX))
        if opening is None:
            raise Broken(f"{path.name} line 1: it does not say after which hash it goes on")
        number, last = int(path.stem) - 1, opening[1].decode()
        if after is not None and (number, last) != after:
            raise Broken(
                f"{path.name} line 1: it does not go on from entry {after.number}: files are missing or changed"
            )
        for count, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), start=2):
            if not line.endswith(b"\n"):
                raise (Torn if len(line) < LINE_BYTES_MAX else Broken)(f"{path.name} line {count}: it is not whole")
            try:
                entry = read_line(line)
            except Broken as error:
                raise Broken(f"{path.name} line {count}: {error}") from None
            if entry.number != number + 1:
                raise Broken(f"{path.name} line {count}: it is entry {entry.number}, and {number + 1} is due")
            if chained(last, body_of(line)) != entry.hash:
                raise Broken(f"{path.name} line {count}: entry {entry.number} or one before it was changed")
            number, last = entry.number, entry.hash
            yield count, entry


def entries_after(directory: Path, number: int) -> Iterator[Entry]:
    """The entries with higher numbers than *number*, oldest first, up to the newest whole one. Nothing is checked."""
    files = files_of(directory)
    while len(files) > 1 and int(files[1].stem) <= number + 1:
        del files[0]
    for path in files:
        with path.open("rb") as file:
            file.readline(LINE_BYTES_MAX)
            for line in iter(lambda: file.readline(LINE_BYTES_MAX), b""):
                try:
                    entry = read_line(line)
                except Broken:
                    continue
                if entry.number > number:
                    yield entry


def verify(path: Path) -> Verified:
    """Look through a log: a directory, or one file of it.

    A log whose last lines are gone is told by the file ``head``, one whose first files are gone by the entry that
    says so. Whoever may write all of it can also write all of it anew; against him only a copy of the head helps
    that is kept elsewhere, see `Verified.head`.

    Raises:
        OSError: it cannot be read.
    """
    whole = stat.S_ISDIR(path.stat().st_mode)
    kept = read_head(path) if whole else None  # before the rest: a log that is being written only grows
    files = files_of(path) if whole else [path]
    found = Verified(0, 0, Head())
    expired = 0
    before: Head | None = None
    try:
        for file in files:
            if not file.stem.isdecimal():
                raise Broken(f"{file.name}: the name of such a file is the number of its first entry")
            try:
                for count, entry in whole_lines(file, before):
                    found = Verified(found.entries + 1, found.first or entry.number, Head(entry.number, entry.hash))
                    if kept is not None and entry.number == kept.number and entry.hash != kept.hash:
                        raise Broken(f"{file.name} line {count}: its hash is not the one that the file {HEAD} has kept")
                    if entry.action == EXPIRED and entry.target.isdecimal():
                        expired = max(expired, int(entry.target))
            except Torn:
                # Nothing that was told to be kept is lost with it; a coordinator that starts cuts it.
                if file is not files[-1]:
                    raise
            before = found.head
        if whole:
            _check_ends(found, expired, kept)
    except Broken as error:
        return found._replace(problem=str(error))
    return found


def _check_ends(found: Verified, expired: int, kept: Head | None) -> None:
    if not found.entries:
        raise Broken("there is no audit log here")
    if kept is None:
        raise Broken(f"{HEAD}: it is missing, so nobody can tell whether the last entries are")
    if kept.number > found.head.number:
        last = found.head.number
        raise Broken(f"{HEAD}: it names entry {kept.number}, and the log ends with {last}: the last ones are missing")
    if found.first > expired + 1:
        raise Broken(
            f"{name_of(found.first)} line 2: it is entry {found.first}, and nothing says where those before it went"
        )
