"""The agent's journal: what it promised survives it, and a new boot makes it say that it cannot know."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker_agent import journal as journal_module
from worker_agent.journal import Accepted, DataDirectoryInUse, Journal, JournalFull


def reopened(journal: Journal, boot_id: str = "boot") -> Journal:
    """What the next agent finds."""
    directory = journal._directory
    journal.close()
    return Journal.open(directory, boot_id)


def test_what_was_accepted_is_open_for_the_next_agent(tmp_path: Path) -> None:
    """Keys, sequences, digests, mark and journal id survive; the generation rises."""
    journal = Journal.open(tmp_path, "boot")
    journal.accept([Accepted("a.0.1", 1, "da"), Accepted("b.0.1", 5, "db")])
    journal.tombstone("c.0.1", 6)
    journal.acknowledge(["a.0.1"])
    first_id = journal.journal_id

    journal = reopened(journal)

    assert journal.journal_id == first_id
    assert journal.generation == 2
    assert journal.open_attempts == {"b.0.1": 5}
    assert journal.digests == {"b.0.1": "db"}
    assert journal.tombstones == {"c.0.1": 6}
    assert journal.mark == 6
    journal.close()


def test_acknowledging_forgets_the_attempt_but_not_the_mark(tmp_path: Path) -> None:
    """A late repeat of a settled assignment must find the mark above it."""
    journal = Journal.open(tmp_path, "boot")
    journal.accept([Accepted("a.0.1", 9, "")])
    journal.acknowledge(["a.0.1", "never-heard-of.0.1"])

    journal = reopened(journal)

    assert (journal.open_attempts, journal.mark) == ({}, 9)
    with pytest.raises(ValueError, match="not above the mark"):
        journal.accept([Accepted("a.0.1", 9, "")])
    journal.close()


def test_a_group_with_an_old_sequence_is_refused_whole(tmp_path: Path) -> None:
    """Half a group would start what the other half denies."""
    journal = Journal.open(tmp_path, "boot")
    with pytest.raises(ValueError, match="not above the mark"):
        journal.accept([Accepted("a.0.1", 3, ""), Accepted("b.0.1", 3, "")])
    assert (journal.open_attempts, journal.mark) == ({}, 0)
    journal.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.integers(1, 60))
def test_a_torn_tail_costs_only_the_record_that_was_being_written(tmp_path: Path, lost: int) -> None:
    """An agent killed within write(2) had not promised that record yet; what came before is kept, and it goes on."""
    directory = tmp_path / str(lost)
    journal = Journal.open(directory, "boot")
    journal.accept([Accepted("a.0.1", 1, "d")])
    kept = (directory / "agent.journal").read_bytes()
    journal.accept([Accepted("b.0.1", 2, "d" * 60)])
    whole = (directory / "agent.journal").read_bytes()
    journal.close()
    (directory / "agent.journal").write_bytes(whole[: max(len(kept), len(whole) - lost)])

    journal = Journal.open(directory, "boot")
    assert journal.open_attempts == {"a.0.1": 1}
    journal.accept([Accepted("c.0.1", 3, "")])
    journal = reopened(journal)
    assert journal.open_attempts == {"a.0.1": 1, "c.0.1": 3}
    journal.close()


def test_a_new_boot_is_amnesia(tmp_path: Path) -> None:
    """Unsynced records may be lost with the host: a new journal id says so, and what was open is named."""
    journal = Journal.open(tmp_path, "boot")
    journal.accept([Accepted("a.0.1", 4, "")])
    first_id, first_generation = journal.journal_id, journal.generation

    journal = reopened(journal, "another boot")

    assert journal.journal_id != first_id
    assert journal.amnesia == ("a.0.1",)
    assert (journal.open_attempts, journal.mark) == ({}, 0)
    assert journal.generation > first_generation
    journal.close()


def test_a_journal_is_rewritten_when_it_is_large_and_keeps_what_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settled attempts take no room for ever."""
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 4000)
    journal = Journal.open(tmp_path, "boot")
    journal.accept([Accepted("open.0.1", 1, "d")])
    for seq in range(2, 400):
        journal.accept([Accepted(f"{seq}.0.1", seq, "digest")])
        journal.acknowledge([f"{seq}.0.1"])

    assert (tmp_path / "agent.journal").stat().st_size < 5000
    journal = reopened(journal)
    assert (journal.open_attempts, journal.mark) == ({"open.0.1": 1}, 399)
    journal.close()


def test_two_agents_cannot_share_a_data_directory(tmp_path: Path) -> None:
    """The second is told so, and gets it once the first has gone."""
    journal = Journal.open(tmp_path, "boot")
    with pytest.raises(DataDirectoryInUse):
        Journal.open(tmp_path, "boot")
    journal.close()
    Journal.open(tmp_path, "boot").close()


def test_on_a_full_disk_nothing_is_promised(tmp_path: Path) -> None:
    """An acceptance that is not in the file must not be in memory either."""
    journal = Journal.open(tmp_path, "boot")
    real, journal._fd = journal._fd, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(JournalFull):
        journal.accept([Accepted("a.0.1", 1, "")])
    assert (journal.open_attempts, journal.mark) == ({}, 0)
    os.close(journal._fd)
    journal._fd = real
    journal.accept([Accepted("a.0.1", 1, "")])
    journal.close()


def test_a_mark_that_cannot_be_written_is_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count until the next start only, and then an older command could pass."""
    journal = Journal.open(tmp_path, "boot")
    before = journal.mark

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_rewrite", full)
    with pytest.raises(OSError, match="No space"):
        journal.raise_mark(before + 5)

    assert journal.mark == before
    monkeypatch.undo()
    journal.raise_mark(before + 5)
    assert journal.mark == before + 5
    journal.close()


def test_a_journal_that_cannot_be_made_smaller_takes_no_room_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a new one is removed; it is tried again after a further MiB and not with each record."""
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 1000)
    journal = Journal.open(tmp_path, "boot")
    tries = 0

    def full(fd: int, content: bytes) -> int:
        nonlocal tries
        tries += 1
        os.write(fd, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module, "_write_all", full)
    for number in range(1, 200):
        journal.accept([Accepted(f"a{number}.0.1", number, "0" * 32)])
    assert tries == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["agent.journal", "agent.lock"]
    monkeypatch.undo()
    journal.close()
    again = Journal.open(tmp_path, "boot")
    assert again.mark == 199
    again.close()


def test_a_journal_under_load_stays_small_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record but those acknowledged is there after each rewriting, and after the end."""
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 4000)
    journal = Journal.open(tmp_path, "boot")
    largest = 0
    for number in range(1, 3000):
        journal.accept([Accepted(f"a{number}.0.1", number, "0" * 32)])
        if number % 3:
            journal.acknowledge([f"a{number}.0.1"])
        if number % 500 == 0:
            journal.tombstone(f"t{number}.0.1", number)
        if number > 60 and number % 3 == 0:
            journal.acknowledge([f"a{number - 60}.0.1"])
        largest = max(largest, (tmp_path / "agent.journal").stat().st_size)
    kept, stones = dict(journal.open_attempts), dict(journal.tombstones)
    journal.close()

    again = Journal.open(tmp_path, "boot")

    assert largest < 20_000
    assert (again.open_attempts, again.tombstones, again.mark) == (kept, stones, 2999)
    assert len(kept) == 20 and len(stones) == 5
    again.close()
