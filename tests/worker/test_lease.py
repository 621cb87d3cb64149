"""The lease file: what the agent writes, and what a shim makes of it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.test_recovery import crash
from worker_agent.attempts import Cause
from worker_agent.lease import NAME, LeaseFile, remaining_s
from worker_agent.process_tree import boot_id
from worker_agent.runner import Runner

BOOT = "9f7f1f5e-3f3d-4f0a-9c0c-0d0f6f1d2a11"


def now_ns() -> int:
    """The clock of leases."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_a_lease_goes_on_until_its_end(tmp_path: Path) -> None:
    """Counted on the clock that sleeps never stop."""
    lease = LeaseFile(tmp_path, BOOT)

    lease.extend(now_ns() + 5_000_000_000)

    assert 4.0 < remaining_s(str(tmp_path), BOOT) <= 5.0
    lease.close()


def test_a_lease_is_never_made_shorter(tmp_path: Path) -> None:
    """An older answer may arrive after a newer one."""
    lease = LeaseFile(tmp_path, BOOT)
    lease.extend(now_ns() + 5_000_000_000)

    lease.extend(now_ns() + 1_000_000_000)

    assert remaining_s(str(tmp_path), BOOT) > 4.0
    lease.close()


def test_the_lease_of_an_earlier_agent_goes_on(tmp_path: Path) -> None:
    """Its successor has that much time to be heard."""
    lease = LeaseFile(tmp_path, BOOT)
    lease.extend(now_ns() + 5_000_000_000)
    lease.close()

    again = LeaseFile(tmp_path, BOOT)

    assert remaining_s(str(tmp_path), BOOT) > 4.0
    again.close()


def test_a_lease_of_another_boot_is_over(tmp_path: Path) -> None:
    """Its clock began anew."""
    lease = LeaseFile(tmp_path, BOOT)
    lease.extend(now_ns() + 5_000_000_000)
    lease.close()

    assert remaining_s(str(tmp_path), "another boot") == 0.0


def test_a_lease_that_is_over_is_not_positive(tmp_path: Path) -> None:
    """The shim ends its attempt then."""
    lease = LeaseFile(tmp_path, BOOT)
    lease.extend(now_ns() - 1)
    lease.close()

    assert remaining_s(str(tmp_path), BOOT) <= 0.0


def test_a_lease_that_had_run_out_is_another_one_when_it_is_extended(tmp_path: Path) -> None:
    """What was taken on before may have been given to another worker since; also an agent's successor knows that."""
    lease = LeaseFile(tmp_path, BOOT)
    lease.extend(now_ns() + 5_000_000_000)
    first = lease.term
    lease.extend(now_ns() + 6_000_000_000)
    assert lease.term == first
    assert remaining_s(str(tmp_path), BOOT, first) > 5.0
    lease.close()

    lease = LeaseFile(tmp_path, BOOT)
    assert (lease.term, lease.end_ns > now_ns()) == (first, True)
    lease.end_ns = now_ns() - 1
    lease.extend(now_ns() + 5_000_000_000)

    assert remaining_s(str(tmp_path), BOOT, first) == 0.0
    assert remaining_s(str(tmp_path), BOOT, lease.term) > 4.0
    lease.close()


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 32, b"x" * 32])
def test_what_is_no_lease_is_over(tmp_path: Path, content: bytes) -> None:
    """Unreadable means over: the safe side."""
    (tmp_path / NAME).write_bytes(content)

    assert remaining_s(str(tmp_path), BOOT) == 0.0


def test_no_file_is_no_lease(tmp_path: Path) -> None:
    """Nobody was ever heard."""
    assert remaining_s(str(tmp_path), BOOT) == 0.0


def test_the_file_is_for_its_user_alone(tmp_path: Path) -> None:
    """Whoever writes it keeps jobs running."""
    LeaseFile(tmp_path, BOOT).close()

    assert os.stat(tmp_path / NAME).st_mode & 0o777 == 0o600


# What a shim makes of it


@pytest.fixture
def lease(bench: Bench) -> Iterator[LeaseFile]:
    """The lease of a worker whose programs are real."""
    (bench.place / "run").mkdir(exist_ok=True, mode=0o700)
    made = LeaseFile(bench.place / "run", boot_id())
    yield made
    made.close()


async def test_an_attempt_of_the_policy_stop_never_begins_without_a_lease(
    bench: Bench, runner: Runner, lease: LeaseFile
) -> None:
    """Its coordinator may have given it to another worker already."""
    runner.start(bench.order("none", sh("echo ran > ran"), lease=True))

    ended = await bench.ended("none")

    assert (ended.cause, ended.started_at_us, ended.exit_code) == (Cause.LEASE, 0, None)
    assert not (bench.place / "ran").exists()


async def test_an_attempt_does_not_begin_under_a_later_lease(bench: Bench, runner: Runner, lease: LeaseFile) -> None:
    """It was on its way while the lease ran out, and its coordinator has concluded meanwhile that it runs no more."""
    lease.extend(now_ns() - 1)
    taken_on = lease.term
    lease.extend(now_ns() + 60_000_000_000)
    runner.start(bench.order("late", sh("echo ran > ran"), lease=taken_on))

    ended = await bench.ended("late")

    assert (ended.cause, ended.started_at_us) == (Cause.LEASE, 0)
    assert not (bench.place / "ran").exists()


async def test_an_attempt_runs_while_the_lease_is_extended_and_ends_with_it(
    bench: Bench, runner: Runner, lease: LeaseFile
) -> None:
    """Asked with SIGTERM first, as by a stop; the receipt proves that nothing is left."""
    lease.extend(now_ns() + 1_500_000_000)
    program = sh('trap "echo asked > asked; exit 3" TERM; echo up > up; while :; do sleep 0.05; done')
    runner.start(bench.order("leased", program, lease=True))
    await bench.appears("up")
    lease.extend(now_ns() + 2_500_000_000)
    extended_ns = lease.end_ns

    ended = await bench.ended("leased")

    assert now_ns() >= extended_ns
    assert (ended.cause, ended.exit_code) == (Cause.LEASE, 3)
    assert await bench.appears("asked") == "asked\n"
    assert ended.receipt.verified_by and ended.receipt.signals[0].signal == "SIGTERM"


async def test_an_attempt_ends_with_the_lease_when_its_agent_is_dead(bench: Bench, lease: LeaseFile) -> None:
    """Nobody is there to tell its shim."""
    lease.extend(now_ns() + 2_000_000_000)
    first = bench.runner()
    await first.__aenter__()
    first.start(bench.order("alone", sh("echo up > up; sleep 600"), lease=True))
    await bench.appears("up")
    await crash(first)

    await eventually(lambda: not bench.living(), "the program to end", within_s=10)


async def test_an_attempt_of_the_policy_keep_needs_no_lease(bench: Bench, runner: Runner) -> None:
    """The usual one."""
    runner.start(bench.order("kept", sh("exit 4")))

    assert (await bench.ended("kept")).exit_code == 4
