"""scripts/bench --peers without the peers: that it measures, leaves nothing, names what is missing; how it counts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from benchmarks.clusters import Load, Product
from benchmarks.peers import contestants, installation, report
from benchmarks.peers import rounds as peer_rounds
from benchmarks.peers.contestants import XARGS, Contestant
from benchmarks.peers.driver import Driver
from benchmarks.peers.rounds import LIMIT, OURS, RATE, Options, Results, Session
from benchmarks.processes import BenchError
from benchmarks.rounds import C_LOOP, PRODUCT
from tests.benchmarks import pretended_peer
from tests.benchmarks.leftovers import processes_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0
PRETENDED = Contestant("pretended", "pretended peer", 2.0, "tests.benchmarks.pretended_peer")
MISSING = Contestant("missing", "missing peer", 3.0, "tests.benchmarks.no_such_module")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path is short enough for sockets."""
    return tmp_path_factory.mktemp("p")


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for it, with an end."""
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_at, what
        time.sleep(0.05)


def nothing_is_left(place: Path) -> None:
    """No process and no file; a killed process may need a moment."""
    until(lambda: not processes_of(place), "processes are left")
    assert list(place.iterdir()) == []


def a_driver(place: Path) -> Driver:
    """Of the pretended peer."""
    return Driver(PRETENDED.name, PRETENDED.argv, place)


def test_a_peer_tells_its_version_runs_jobs_and_leaves_nothing(place: Path) -> None:
    """What its libraries print is no answer; its server lives as long as it."""
    with a_driver(place) as driver:
        assert driver.version == "1.2.3"
        assert driver.run(3) > 0 and driver.run(2) > 0
        assert any("sleep" in line for line in processes_of(place))

    nothing_is_left(place)


@pytest.mark.parametrize(
    ("jobs", "said"), [(pretended_peer.FAILS, "some jobs have failed"), (pretended_peer.DIES, "has ended")]
)
def test_a_peer_that_fails_is_no_measurement_and_leaves_nothing(place: Path, jobs: int, said: str) -> None:
    """Also when its program is killed: what it had started is ended by the one who watched."""
    with pytest.raises(BenchError, match=said), a_driver(place) as driver:
        driver.run(jobs)

    nothing_is_left(place)


def test_a_peer_that_does_not_start_is_told_with_its_last_words(place: Path) -> None:
    """What is not installed names itself."""
    with pytest.raises(BenchError, match="no_such_module"), Driver(MISSING.name, MISSING.argv, place):
        raise AssertionError("it is not there")

    nothing_is_left(place)


def test_an_interrupt_in_the_middle_of_a_run_ends_a_peer_at_once(place: Path) -> None:
    """The one who waits is interrupted, and leaves without waiting for the jobs."""
    program = (
        "import sys; from pathlib import Path; from benchmarks.processes import end_on_signals;"
        "from tests.benchmarks.test_peers import a_driver; end_on_signals()\n"
        f"with a_driver(Path(sys.argv[1])) as driver: print(flush=True); driver.run({pretended_peer.HANGS})"
    )
    argv = [sys.executable, "-c", program, str(place)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.terminate()
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()

    assert err.rstrip().endswith("KeyboardInterrupt")
    nothing_is_left(place)


class PretendedProduct:
    """A product of which each measurement finds a higher rate."""

    def __init__(self) -> None:
        self._rate = 0.0

    def load(self, what: str, jobs: int) -> Load:
        """The next hundred."""
        self._rate += 100.0
        return Load({"jobs_per_s": self._rate}, {})


def test_each_peer_stands_between_two_measurements_and_a_missing_one_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails is tried once; the rest is measured in every round, another one first each time."""

    def install(python: object, debian: tuple[str, ...]) -> None:
        if debian:
            raise BenchError(f"could not be installed: {debian[0]}")

    monkeypatch.setattr(peer_rounds, "install", install)
    refused = Contestant("refused", "refused peer", 4.0, PRETENDED.module, (), ("no-such-package",))
    options = Options(rounds=2, jobs=4, peers=(XARGS, MISSING, PRETENDED, refused))
    session = Session(options, place, lambda _: None)
    session.product = cast(Product, PretendedProduct())
    session.install()
    session.round(0)
    session.round(1)
    results = session.results

    # First round: the product at 100, xargs, 200, the missing one, 300, the pretended one, 400. Then from 500 on.
    assert results.series.of(XARGS.name, OURS) == [150.0, 650.0]
    assert results.series.of(PRETENDED.name, OURS) == [350.0, 550.0]
    assert len(results.series.of(PRETENDED.name, LIMIT)) == len(results.series.of(PRETENDED.name, RATE)) == 2
    assert results.versions == {PRETENDED.name: "1.2.3"}
    assert list(results.left_out) == [refused.name, MISSING.name]
    text = report.as_text(results, options, "a machine")
    assert "Left out: refused peer\n  could not be installed: no-such-package" in text
    assert "Left out: missing peer" in text and "no_such_module" in text
    assert [row.what for row in report.target_rows(results, options)] == [
        "jobs/s / xargs -P2",
        "jobs/s / pretended peer",
    ]


def test_the_ratio_is_of_the_product_around_a_peer_over_the_peer() -> None:
    """The rounds' ratios are 4, 2 and 1; the best of both sides are 600 and 300."""
    results = Results()
    for ours, theirs in ((400.0, 100.0), (600.0, 300.0), (200.0, 200.0)):
        results.series.add(PRETENDED.name, OURS, ours)
        results.series.add(PRETENDED.name, RATE, theirs)
        results.series.add(PRETENDED.name, LIMIT, 1000.0)
        results.series.add(C_LOOP, RATE, 1000.0)
    options = Options(peers=(PRETENDED,))
    (row,) = report.target_rows(results, options)

    assert (row.target, row.median, row.best, row.pass_line, row.ok) == ("P6", 2.0, 2.0, ">= 2", True)
    assert report.contestant_rows(results, options)[1:] == [
        [C_LOOP, "-", "1000 (1000)", "-"],
        [PRETENDED.name, "-", "200 (300)", "0.20"],
    ]


def test_each_peer_has_a_goal_and_a_program_that_is_there() -> None:
    """The goals are those of the table of targets; every program is a file of ours."""
    assert [peer.least for peer in contestants.CONTESTANTS] == [5, 3, 5, 4.5, 1.6, 1.4]
    programs = [ROOT / f"{peer.module.replace('.', '/')}.py" for peer in contestants.CONTESTANTS if peer.module]
    assert len(programs) == 5 and all(program.is_file() for program in programs)


def test_a_package_is_installed_once_and_what_cannot_be_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's interpreter here only notes what it is told, and installs nothing with a 2 in its name."""
    monkeypatch.setattr(installation, "ENVIRONMENT", place / "peers")
    interpreter, calls = place / "peers" / "bin" / "python", place / "calls"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\necho "$*" >>{calls}\ncase $* in *uv* | *package-2*) exit 1 ;; esac\n')
    interpreter.chmod(0o755)

    for _ in range(2):
        installation.install(["package-1[more]"], [])
    with pytest.raises(BenchError, match=r"could not be installed: package-2$"):
        installation.install(["package-2"], [])

    asked = [line for line in calls.read_text().splitlines() if "pip install" in line and "uv" not in line]
    assert asked == ["-m pip install --quiet package-1[more]", "-m pip install --quiet package-2"]


@pytest.mark.parametrize("wrong", [["--rounds=0"], ["--jobs=1"], ["--only=slurm"], ["--dir=/nowhere/at/all"]])
def test_bad_options_are_refused_before_anything_is_installed(wrong: list[str]) -> None:
    """Exit status 2, with what is expected."""
    argv = [sys.executable, "-m", "benchmarks.peers", *wrong]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert wrong[0].split("=")[0] in done.stderr or "no directory" in done.stderr


@pytest.mark.ci
@pytest.mark.timeout(300)  # starting a cluster takes seconds on a busy machine
def test_one_run_beside_a_peer_that_needs_no_installation_leaves_nothing(place: Path) -> None:
    """With tiny numbers, through a whole cluster."""
    argv = [sys.executable, "-m", "benchmarks.peers", "--dir", str(place), "--rounds=1", "--jobs=40", "--json"]
    done = subprocess.run([*argv, "--only=XARGS"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)

    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert [(row["target"], row["what"]) for row in answer["targets"]] == [("P6", "jobs/s / xargs -P2")]
    assert {value["contestant"] for value in answer["values"]} == {C_LOOP, XARGS.name, PRODUCT}
    assert all(rate > 0 for value in answer["values"] for rate in value["rounds"])
    nothing_is_left(place)
