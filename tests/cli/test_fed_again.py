"""A job that is fed and begins anew: the next attempt must not work on the rest of what the first one had."""

import subprocess
import time

import pytest

from tests.cli.fake_cluster import FakeCluster, exited
from tests.cli.test_run import AT_MOST_S, run_with

GONE = b"standard input was cut off: the job has begun anew, and the input that it had read is gone"


def the_job(fake: FakeCluster) -> str:
    """The id of the only one."""
    (job,) = fake.jobs
    return job


def fed(fake: FakeCluster, content: bytes, *, ends: bool) -> "subprocess.Popen[bytes]":
    """Start ``hostler run`` and feed an attempt that is over when it has this."""
    fake.begin = lambda _: (None, b"")
    fake.closes_input = True
    run = run_with(subprocess.PIPE, fake)
    assert run.stdin is not None
    run.stdin.write(content)
    run.stdin.flush()
    if ends:
        run.stdin.close()
        run.stdin = None
    until = time.monotonic() + AT_MOST_S
    while fake.closes_input:
        assert time.monotonic() < until
        time.sleep(0.01)
    return run


@pytest.mark.parametrize("ends", [False, True])
def test_a_job_that_begins_anew_is_stopped(ends: bool, fake: FakeCluster) -> None:
    """Whether its input had ended or not: the next attempt would wait for it for ever."""
    run = fed(fake, b"once\n", ends=ends)

    fake.begin_anew(the_job(fake))

    fake.wait_until_heard("stop")
    out_bytes, said = run.communicate(timeout=AT_MOST_S)
    assert (run.returncode, out_bytes) == (125, b"")
    assert GONE + b"; the job is stopped" in said


def test_an_attempt_that_is_over_before_it_can_be_stopped_is_no_success(fake: FakeCluster) -> None:
    """It has worked on no input, whatever its exit status says."""
    run = fed(fake, b"once\n", ends=True)

    fake.begin_anew(the_job(fake))
    fake.end(the_job(fake), exited(0))

    out_bytes, said = run.communicate(timeout=AT_MOST_S)
    assert (run.returncode, out_bytes, fake.heard) == (125, b"", [])
    assert GONE in said


def test_an_attempt_that_follows_on_one_that_got_nothing_is_fed(fake: FakeCluster) -> None:
    """Input that is empty is so for each of them."""
    run = fed(fake, b"", ends=True)

    fake.begin_anew(the_job(fake))

    assert run.communicate(timeout=AT_MOST_S) == (b"", b"")
    assert (run.returncode, fake.heard) == (0, [])
