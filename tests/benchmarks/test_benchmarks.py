"""scripts/bench: that it measures and leaves nothing, with tiny numbers; and how it counts. No figure is asserted."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from benchmarks import report, rounds, scale
from benchmarks.clusters import AGENT, COORDINATOR, GATEWAY, SPAWNING
from benchmarks.processes import BenchError, CpuMeter
from benchmarks.rounds import PRODUCT, PROTOTYPE, Options, Series
from benchmarks.yardsticks import CLoop, tiny
from tests.benchmarks.leftovers import processes_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0


@contextmanager
def running(place: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """The benchmarks with their data directories in *place*; killed at the end, if they still run."""
    argv = [sys.executable, "-m", "benchmarks", "--dir", str(place), *arguments]
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()  # what it started ends with it
            process.communicate()


def children_of(pid: int) -> list[str]:
    """The command lines of the children of *pid*."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found.append(Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path is short enough for sockets."""
    return tmp_path_factory.mktemp("b")


@pytest.mark.ci
@pytest.mark.timeout(300)  # starting a cluster takes seconds on a busy machine
def test_one_run_measures_every_target_and_leaves_nothing(place: Path) -> None:
    """Each row has its two figures, each component its CPU time; directory and processes are gone."""
    with running(place, "--rounds=1", "--jobs=40", "--samples=5", "--json") as process:
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, err) == (0, "")
    answer = json.loads(out)
    targets = [row["target"] for row in answer["targets"]]
    assert targets == ["P1", "P2", "P3", "P4", "P5", "P5", "P8", "P8", "P10", "P10"]
    assert all(row["median"] > 0 and row["best"] > 0 for row in answer["targets"])
    measured = {cpu["component"] for cpu in answer["cpu_us_per_job"] if cpu["contestant"] == "product"}
    assert measured == set(report.COMPONENTS)
    assert (list(place.iterdir()), processes_of(place)) == ([], [])


@pytest.mark.ci
@pytest.mark.timeout(300)  # starting a cluster takes seconds on a busy machine
def test_only_what_is_asked_for_is_measured_and_shown_as_tables(place: Path) -> None:
    """Without P10 no prototype is started."""
    with running(place, "--rounds=1", "--jobs=40", "--samples=5", "--only=P1,P5") as process:
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, err) == (0, "")
    targets = [line.split()[1] for line in out.splitlines() if line.startswith("| P")]
    assert targets == ["P1", "P5", "P5"]
    assert "prototype" not in out


@pytest.mark.ci
@pytest.mark.timeout(300)  # starting a cluster takes seconds on a busy machine
def test_an_interrupt_ends_everything(place: Path) -> None:
    """In the middle of a run: status 130, no process and no file is left."""
    with running(place, "--rounds=1000", "--jobs=10000", "--only=P1") as process:
        ends_at = time.monotonic() + PATIENCE_S
        while not any("benchmarks.load" in line for line in children_of(process.pid)):
            assert process.poll() is None and time.monotonic() < ends_at, "it did not come to the load"
            time.sleep(0.05)
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out, err) == (130, "", "")
    assert (list(place.iterdir()), processes_of(place)) == ([], [])


@pytest.mark.parametrize("wrong", [["--rounds=0"], ["--jobs=1e9"], ["--only=P7"], ["--dir=/nowhere/at/all"]])
def test_bad_options_are_refused_before_anything_is_started(wrong: list[str]) -> None:
    """Exit status 2, with what is expected."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *wrong], cwd=ROOT, capture_output=True, text=True, timeout=30
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert wrong[0].split("=")[0] in done.stderr or "no directory" in done.stderr


@pytest.mark.ci
def test_a_long_log_is_written_opened_and_removed(place: Path) -> None:
    """By a real job, with tiny numbers; nothing is left."""
    argv = [sys.executable, "-m", "benchmarks.long_log", "--dir", str(place), "--bytes", "2000000", "--places", "3"]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)

    assert ended.returncode == 0, ended.stderr
    assert "a log of 2 MiB" in ended.stdout and "opened at 3 places" in ended.stdout
    assert list(place.iterdir()) == [] and processes_of(place) == []


def ended_module(module: str, place: Path, *arguments: str) -> str:
    """What a benchmark of its own printed in *place*; it ended well and nothing is left."""
    argv = [sys.executable, "-m", f"benchmarks.{module}", "--dir", str(place), *arguments]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(place.iterdir()) == [] and processes_of(place) == []
    return ended.stdout


@pytest.mark.ci
@pytest.mark.timeout(300)  # starting a cluster takes seconds on a busy machine
def test_two_scales_idle_workers_and_long_jobs_are_measured_and_removed(place: Path) -> None:
    """With tiny numbers: each cost has its two figures, and every job has ended."""
    sizes = ("--small=2,10", "--large=3,30", "--idle=3", "--idle-s=0.2", "--long-jobs=4")
    out = ended_module("scale", place, *sizes)

    rows = {line[:26].strip() for line in out.splitlines()}
    assert {*scale.COSTS, "memory a queued job, kB", "memory a worker, kB"} <= rows
    assert "P9: 3 idle workers" in out and "4 long jobs on one worker" in out and "no process left" in out


def test_scales_that_are_none_are_refused() -> None:
    """Exit status 2, with what is expected."""
    argv = [sys.executable, "-m", "benchmarks.scale", "--large=5000"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--large" in done.stderr and "WORKERS,JOBS" in done.stderr


@pytest.mark.ci
@pytest.mark.timeout(300)  # starting a cluster takes seconds on a busy machine
def test_trees_are_stopped_and_killed_and_none_is_left(place: Path) -> None:
    """One with each signal."""
    assert "none left in 2 of 2" in ended_module("stop_tree", place, "--trees=2")


def test_the_steps_that_every_attempt_needs_are_measured_bare(place: Path) -> None:
    """Of both programs, over the C loop; every process of it is over."""
    printed = ended_module("bare_steps", place, "--rounds=1", "--jobs=20", "--processes=2")

    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:]] == ["true", "without libc"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])


def test_a_process_that_vanished_counts_with_what_was_last_seen_of_it() -> None:
    """A shim may end during a measurement, and nobody waits for it."""
    busy = [sys.executable, "-c", "sum(range(2_000_000)); print(flush=True); input()"]
    with subprocess.Popen(busy, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        meter = CpuMeter(lambda: {"shims": [process.pid]})
        assert process.stdout is not None
        process.stdout.readline()
        seen_s = meter.totals()["shims"]
        process.kill()
        process.wait()

    assert meter.totals()["shims"] == seen_s > 0


def a_series() -> Series:
    """Three rounds in which the product was slow, fast and middling."""
    series = Series()
    for product, limit in ((1000.0, 4000.0), (3000.0, 3000.0), (1600.0, 2000.0)):
        series.add(PRODUCT, rounds.BATCH, product)
        series.add(PRODUCT, rounds.LIMIT_OF_BATCH, limit)
        series.add(PROTOTYPE, rounds.BATCH, 2000.0)
        series.add(PRODUCT, rounds.LIMIT_CPU_OF_BATCH, 500.0)
        for component, cpu_us in ((COORDINATOR, 40.0), (AGENT, 30.0), (SPAWNING, 110.0), (GATEWAY, 7.0)):
            series.cpu_us[PRODUCT, rounds.CPU_OF_BATCH, component].append(cpu_us)
    return series


def test_the_median_is_of_ratios_within_a_round_and_the_best_of_both_sides() -> None:
    """The rounds' ratios are 0.25, 1 and 0.8; the fastest of each side are 3000 and 4000."""
    (row,) = report.target_rows(a_series(), Options(only=frozenset({"P1"})))

    assert (row.median, row.best, row.pass_line, row.ok) == (0.8, 0.75, ">= 0.7", True)


def test_the_control_plane_is_counted_without_the_gateway() -> None:
    """P3 is (40 + 30 + 110) / 500, and lower is better."""
    (row,) = report.target_rows(a_series(), Options(only=frozenset({"P3"})))

    assert row.median == pytest.approx(0.36)
    assert row.ok is False


def test_a_program_without_libc_runs_bare_and_in_the_c_loop(place: Path) -> None:
    """What P4 is made of: it ends well wherever it is started, and needs no library."""
    program = tiny(place)

    assert subprocess.run([program], timeout=30).returncode == 0
    assert b"ld-linux" not in Path(program).read_bytes()
    assert CLoop(place).run(4, timeout_s=30, program=program).jobs_per_s > 0


def test_a_loop_over_a_program_that_fails_is_no_measurement(place: Path) -> None:
    """Every exit code counts, also the C loop's."""
    with pytest.raises(BenchError, match="/bin/false could not be run"):
        CLoop(place).run(4, timeout_s=30, program="/bin/false")


def test_a_program_without_libc_is_judged_by_its_own_loop() -> None:
    """P4 is over what the C loop did with the same program, not with /bin/true."""
    series = a_series()
    for product, limit in ((4000.0, 8000.0), (3000.0, 10_000.0), (4000.0, 10_000.0)):
        series.add(PRODUCT, rounds.TINY, product)
        series.add(PRODUCT, rounds.LIMIT_OF_TINY, limit)
    (row,) = report.target_rows(series, Options(only=frozenset({"P4"})))

    assert (row.median, row.best, row.pass_line, row.ok) == (0.4, 0.4, ">= 0.38", True)


def test_what_was_not_measured_has_no_row() -> None:
    """P2, P5 and P8 are missing, and so is the prototype without overlap."""
    rows = report.target_rows(a_series(), Options())

    assert [row.target for row in rows] == ["P1", "P3", "P10"]
    assert rows[-1].median == median((0.5, 1.5, 0.8))
