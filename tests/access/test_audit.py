"""The audit log: what was done, by whom, in lines that nobody changes unseen."""

import asyncio
import errno
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator import audit
from coordinator.audit import AuditLog
from coordinator.audit_files import AuditFiles
from hostler.audit import ALLOWED, EXPIRED, HEAD, REFUSED, Entry, entries_after, files_of, read_head, verify
from hostler.clock import ManualClock, SystemClock
from hostler.errors import InvalidRequest, Unavailable
from tests.support.waiting import eventually


@asynccontextmanager
async def opened(directory: Path, **options: object) -> AsyncIterator[AuditLog]:
    """A log with its owner; in order to the end."""
    log = AuditLog(directory, SystemClock(), **options)  # type: ignore[arg-type]
    log.open()
    owner = asyncio.create_task(log.run())
    try:
        yield log
    finally:
        owner.cancel()
        await asyncio.gather(owner, return_exceptions=True)
        await log.close()


def note(log: AuditLog, number: int = 0, decision: str = ALLOWED, **about: str) -> None:
    """Note something."""
    log.note("Jobs/Stop", decision, principal="alice", credential="k1", target=f"job {number}", **about)


def entries(directory: Path) -> list[Entry]:
    """All of a log."""
    return list(entries_after(directory, 0))


async def write(directory: Path, count: int, **options: object) -> None:
    """A log with so many entries besides those of its start and stop."""
    async with opened(directory, **options) as log:
        for number in range(count):
            note(log, number)
            if options:
                await log.settled()


async def test_what_is_noted_can_be_read_and_is_chained(tmp_path: Path) -> None:
    """Entries have numbers without a gap, private files, and hashes that follow on one another."""
    directory = tmp_path / "audit"
    await write(directory, 3)
    found = entries(directory)
    assert [entry.action for entry in found] == ["coordinator/Start", *["Jobs/Stop"] * 3, "coordinator/Stop"]
    assert [entry.number for entry in found] == [1, 2, 3, 4, 5]
    assert found[1][2:9] == ("alice", "k1", "", "Jobs/Stop", "job 0", "allowed", "")
    verified = verify(directory)
    assert (verified.entries, verified.first, verified.problem) == (5, 1, "")
    assert verified.head == read_head(directory) == (5, found[-1].hash)
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


async def test_a_log_goes_on_where_an_earlier_coordinator_ended(tmp_path: Path) -> None:
    """The chain runs over restarts."""
    for _ in range(3):
        await write(tmp_path, 2)
    assert verify(tmp_path).entries == 12
    assert verify(tmp_path).problem == ""


async def test_every_changed_removed_or_moved_byte_is_found(tmp_path: Path) -> None:
    """Whatever single change is made to a line, the log does not verify, and the line is named."""
    await write(tmp_path, 20)
    path = files_of(tmp_path)[0]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    chance = random.Random(7)
    for _ in range(200):
        place = chance.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :])
        assert path.name in verify(tmp_path).problem or "head" in verify(tmp_path).problem, place
    for i in range(1, len(lines) - 1):
        path.write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        assert f"line {i + 1}" in verify(tmp_path).problem
        path.write_bytes(b"".join([*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]]))
        assert f"line {i + 1}" in verify(tmp_path).problem
    path.write_bytes(whole)
    assert verify(tmp_path).problem == ""


async def test_a_truncated_tail_is_found_and_stays_found(tmp_path: Path) -> None:
    """Lines cut off at their border leave a good chain; the head tells, and the next start does not paper it over."""
    await write(tmp_path, 5)
    path = files_of(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    assert "the last ones are missing" in verify(tmp_path).problem
    await write(tmp_path, 1)
    assert "missing" in verify(tmp_path).problem
    assert any(e.action == "audit/Recover" and "entries 6 to 7 were missing" in e.detail for e in entries(tmp_path))
    (tmp_path / HEAD).unlink()
    assert verify(tmp_path).problem


async def test_a_log_that_was_removed_as_a_whole_is_missed(tmp_path: Path) -> None:
    """Whoever removes the files leaves the head, and the next log does not begin with entry 1."""
    await write(tmp_path, 5)
    files_of(tmp_path)[0].unlink()
    assert verify(tmp_path).problem == "there is no audit log here"
    await write(tmp_path, 1)
    assert "nothing says where those before it went" in verify(tmp_path).problem


async def test_a_torn_last_line_is_cut_and_noted(tmp_path: Path) -> None:
    """A coordinator killed in the middle of a line leaves a log that goes on, at every byte of the last line."""
    await write(tmp_path, 2)
    path = files_of(tmp_path)[0]
    whole, last_line = path.read_bytes(), path.read_bytes().splitlines(keepends=True)[-1]
    kept = (tmp_path / HEAD).read_bytes()
    for cut in range(1, len(last_line), 17):
        path.write_bytes(whole + last_line[:cut])
        (tmp_path / HEAD).write_bytes(kept)
        assert verify(tmp_path).problem == ""
        await write(tmp_path, 0)
        assert verify(tmp_path).problem == ""
        recovered = [e.detail for e in entries(tmp_path) if e.action == "audit/Recover"]
        assert recovered == [f"{cut} bytes of an unfinished line were cut from {path.name}"]


async def test_a_torn_first_line_of_a_file_is_no_end(tmp_path: Path) -> None:
    """A coordinator killed right after it began a file goes on from the file before."""
    await write(tmp_path, 2)
    (tmp_path / "000000000005.jsonl").write_bytes(b'{"after":"12')
    await write(tmp_path, 0)
    assert verify(tmp_path).problem == ""


async def test_a_last_line_that_is_no_entry_does_not_stop_the_coordinator(tmp_path: Path) -> None:
    """It goes on in another file from the head; without one it refuses to start and says what to do."""
    await write(tmp_path, 2)
    path = files_of(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-30] + b"x" * 29 + b"\n")
    await write(tmp_path, 1)
    assert len(files_of(tmp_path)) == 2
    assert "line 5" in verify(tmp_path).problem
    for file in files_of(tmp_path)[1:]:
        file.unlink()
    (tmp_path / HEAD).unlink()
    with pytest.raises(InvalidRequest, match="move it away"):
        AuditLog(tmp_path, SystemClock()).open()


async def test_files_end_by_size_and_the_chain_goes_on(tmp_path: Path) -> None:
    """Many small files are one log; a file that is missing in the middle is found; one file verifies alone."""
    await write(tmp_path, 20, file_bytes_max=1000)
    files = files_of(tmp_path)
    assert len(files) > 4
    assert verify(tmp_path).entries == 22
    assert verify(tmp_path).problem == ""
    assert verify(files[2]).problem == ""
    assert [entry.number for entry in entries_after(tmp_path, 10)] == list(range(11, 23))
    files[2].unlink()
    assert "files are missing or changed" in verify(tmp_path).problem


async def test_old_files_go_with_an_entry_that_says_so(tmp_path: Path) -> None:
    """What retention removed is no problem; what anybody else removed is one."""
    await write(tmp_path, 20, file_bytes_max=1000)
    files = files_of(tmp_path)
    for file in files[:3]:
        os.utime(file, (1, 1))
    async with opened(tmp_path, keep_s=3600.0) as log:
        await log.settled()
        await eventually(lambda: len(files_of(tmp_path)) == len(files) - 3)
    assert [e.target for e in entries(tmp_path) if e.action == EXPIRED] == [str(int(files[3].stem) - 1)]
    assert verify(tmp_path).problem == ""
    files[3].unlink()
    assert "nothing says where those before it went" in verify(tmp_path).problem


async def test_a_full_disk_refuses_new_work_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While writing fails, `check` refuses, notes of stops are taken, and all of them are written afterwards."""
    real, monkeypatched = os.write, monkeypatch
    monkeypatched.setattr(audit, "AGAIN_S", 0.02)
    full = False

    def write_some(fd: int, content: bytes) -> int:
        if full and content.startswith(b'{"number"'):
            real(fd, content[:7])  # a full disk takes what still fits
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, content)

    async with opened(tmp_path) as log:
        await log.settled()
        log.check()
        monkeypatched.setattr("coordinator.audit_files.os.write", write_some)
        full = True
        note(log, 0)
        with pytest.raises(Unavailable, match="is not written yet: No space left"):
            await log.settled()
        with pytest.raises(Unavailable, match="cannot keep up: No space left"):
            log.check()
        for number in range(1, 100):
            note(log, number)
        full = False
        await eventually(lambda: verify(tmp_path).entries == 101)
        await eventually(lambda: not log._failure)
        log.check()
    assert [e.target for e in entries(tmp_path) if e.target] == [f"job {n}" for n in range(100)]
    assert verify(tmp_path).problem == ""


async def test_entries_whose_head_could_not_be_written_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses at the last step has taken nothing, so that the next try doubles nothing."""
    real, failures = os.pwrite, [errno.ENOSPC]

    def write_some(fd: int, content: bytes, offset: int) -> int:
        if failures:
            raise OSError(failures.pop(), "No space left on device")
        return real(fd, content, offset)

    monkeypatch.setattr(audit, "AGAIN_S", 0.02)
    async with opened(tmp_path) as log:
        await log.settled()
        monkeypatch.setattr("coordinator.audit_files.os.pwrite", write_some)
        note(log, 0)
        await eventually(lambda: [e.target for e in entries(tmp_path) if e.target] == ["job 0"] and not log._failure)
    assert not failures
    assert [e.target for e in entries(tmp_path) if e.target] == ["job 0"]
    assert verify(tmp_path).problem == ""


async def test_old_files_that_cannot_be_removed_do_not_end_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept and tried again; what is noted meanwhile is written."""
    await write(tmp_path, 20, file_bytes_max=1000)
    for file in files_of(tmp_path)[:3]:
        os.utime(file, (1, 1))

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with capture_logs() as written:
        async with opened(tmp_path, keep_s=3600.0) as log:
            await eventually(lambda: any(line["event"] == "audit.kept" for line in written))
            note(log, 77)
            await log.settled()
    assert "job 77" in [e.target for e in entries(tmp_path)]
    assert verify(tmp_path).problem == ""


async def test_what_waits_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New work is refused at half of the room; above all of it entries are counted, and the count is an entry."""
    monkeypatch.setattr(audit, "WAITING_MAX", 100)
    monkeypatch.setattr(audit, "NEW_WORK_MAX", 50)
    log = AuditLog(tmp_path, SystemClock())
    log.open()
    for number in range(48):
        note(log, number)
    log.check()
    note(log)
    with pytest.raises(Unavailable, match="50 entries wait"):
        log.check()
    for number in range(200):
        note(log, number)
    await log.close()
    dropped = [e.detail for e in entries(tmp_path) if e.action == "audit/Dropped"]
    assert dropped == ["151 entries had no room in memory while the disk was full"]
    assert verify(tmp_path).problem == ""


async def test_refusals_are_counted_after_the_first_ones(tmp_path: Path) -> None:
    """One caller who knocks a thousand times costs eleven lines; another one's refusal is not hidden by him."""
    clock = ManualClock()
    log = AuditLog(tmp_path, clock)
    log.open()
    for number in range(1000):
        note(log, number, REFUSED, detail="PERMISSION_DENIED")
    log.note("Jobs/Stop", REFUSED, principal="bob", credential="k2")
    note(log, 7)
    await log.close()
    found = [entry for entry in entries(tmp_path) if entry.action == "Jobs/Stop"]
    assert len(found) == audit.OF_ONE_MAX + 3
    assert found[-1].detail == "990 more like this within 10 s"
    assert (found[-1].principal, found[-1].target, found[-1].decision) == ("alice", "", REFUSED)
    assert [entry.principal for entry in found if entry.principal == "bob"] == ["bob"]


async def test_a_million_addresses_cost_a_thousand_counters(tmp_path: Path) -> None:
    """Callers that change their address are counted together."""
    log = AuditLog(tmp_path, ManualClock())
    log.open()
    for number in range(5000):
        log.note("Access/Join", REFUSED, principal="", address=f"10.{number >> 8}.{number & 255}.1")
    assert len(log._windows) == audit.CALLERS_MAX + 1
    await log.close()
    assert len(entries(tmp_path)) == audit.CALLERS_MAX + audit.OF_ONE_MAX + 3


async def test_lines_are_one_line_each_whatever_is_in_a_name(tmp_path: Path) -> None:
    """Control characters, line separators and lone surrogates are escaped, long texts are cut."""
    async with opened(tmp_path) as log:
        for text in ("a\nb\r\x1b[2J", "\u2028\u202e", "\ud800", '"}\n{"number":1}', "x" * 10_000):
            log.note("Jobs/Submit", ALLOWED, principal=text, target=text, detail=text)
    content = files_of(tmp_path)[0].read_bytes()
    assert content.isascii()
    assert len(content.splitlines()) == 8
    assert verify(tmp_path).problem == ""
    assert max(len(entry.detail) for entry in entries(tmp_path)) == audit.DETAIL_CHARACTERS_MAX
    for line in content.splitlines():
        json.loads(line)


async def test_an_entry_costs_little(tmp_path: Path) -> None:
    """Noting and writing an entry, hash and JSON included, takes less CPU time than thirty of its hashes' size."""
    count = 20_000
    files = AuditFiles(tmp_path, file_bytes_max=audit.FILE_BYTES_MAX)
    files.open()
    log = AuditLog(tmp_path / "other", SystemClock())
    log.open()

    def cpu(act: Callable[[], object]) -> float:
        began = time.process_time()
        act()
        return time.process_time() - began

    def note_many() -> None:
        for number in range(count // 2):
            note(log, number)

    noting = cpu(note_many)
    writing = cpu(lambda: files.append(log._waiting))
    encoding = cpu(lambda: [json.dumps(entry._asdict()) for entry in log._waiting])
    files.close()
    await log.close()
    assert noting + writing < 15 * encoding, (noting, writing, encoding)
