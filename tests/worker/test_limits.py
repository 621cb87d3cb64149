"""Limits of whole trees through real shims: what is refused, who is ended, what is said, and that nothing stays."""

import os
import signal
from pathlib import Path

import pytest

from hostler import frames
from hostler.jobs import Container, Limits, PythonScript, SentSignal, Work
from hostler.v1 import types_pb2, workers_pb2
from hostler.wire.work import work_to_bytes
from hostler.workers import ABILITIES
from tests.worker.real_runner import Bench, eventually, python, sh, streams, whole_ledger
from worker_agent.attempt_events import Started
from worker_agent.attempts import Cause
from worker_agent.capacity import limits_kept
from worker_agent.cgroups import Hierarchy
from worker_agent.evidence import Facts, judge
from worker_agent.limits import Bounds, CannotLimit, Limiter, LimitGroup, Place, Seen, find_places
from worker_agent.oom import Victim
from worker_agent.recovery import recover
from worker_agent.runner import Runner
from worker_agent.starts import Starts

MIB = 1024 * 1024
HOG = "x = []\nwhile True: x.append(bytearray(b'x') * 1000000)"
KILLED = signal.SIGKILL  # as a status of wait(2)


def limit_groups(bench: Bench) -> list[str]:
    """The control groups of a test's limited attempts: SHIM.NUMBER."""
    return [each for each in bench.cgroups() if "." in os.path.basename(each)]


@pytest.mark.parametrize("start_path", ["warm", "hardened"])
async def test_a_tree_that_reaches_its_memory_limit_says_so(bench: Bench, runner: Runner, start_path: str) -> None:
    """The main process is ended by the kernel: cause, signal, peak, and who it was."""
    runner.start(bench.order("a", python(HOG), limits=(80 * MIB, 0, 0), start_path=start_path))

    ended = await bench.ended("a")

    assert (ended.cause, ended.signal, ended.exit_code) == (Cause.MEMORY_LIMIT, "SIGKILL", None)
    assert 78 * MIB < ended.usage.memory_bytes_max <= 80 * MIB
    assert "memory limit of 83,886,080 bytes" in ended.evidence
    assert "which we did not send" not in ended.evidence
    assert not limit_groups(bench)


async def test_a_small_memory_limit_never_costs_the_shim(bench: Bench, runner: Runner) -> None:
    """The shim is larger than what the limit allows, and is inside only as long as there is more room."""
    for number in range(5):
        runner.start(bench.order(f"n{number}", python(HOG), limits=(8 * MIB, 0, 0)))
        ended = await bench.ended(f"n{number}")
        assert (ended.cause, ended.signal) == (Cause.MEMORY_LIMIT, "SIGKILL"), ended
    assert len(list((bench.place / "worker/segments").glob("*.segment"))) == 1, "one shim ran them all"


async def test_a_grandchild_that_reaches_the_limit_fails_the_attempt(bench: Bench, runner: Runner) -> None:
    """The program itself exits as it likes: its exit code is kept."""
    hog = f'{" ".join(python("")[:-1])} "{HOG}"'
    runner.start(bench.order("a", sh(f"{hog}; exit 9"), limits=(60 * MIB, 0, 0)))

    ended = await bench.ended("a")

    assert (ended.cause, ended.signal, ended.exit_code) == (Cause.MEMORY_LIMIT, "", 9)
    assert "the program exited with code 9" in ended.evidence


async def test_a_program_that_outlives_it_and_exits_with_0_is_well(bench: Bench, runner: Runner) -> None:
    """What happened to its child is told all the same."""
    hog = f'{" ".join(python("")[:-1])} "{HOG}"'
    runner.start(bench.order("a", sh(f"{hog} || true"), limits=(60 * MIB, 0, 0)))

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code) == (Cause.EXIT, 0)
    assert "meanwhile the tree reached its memory limit" in ended.evidence


@pytest.mark.parametrize("start_path", ["warm", "hardened"])
async def test_more_processes_than_allowed_cannot_be_made(bench: Bench, runner: Runner, start_path: str) -> None:
    """Four beside the program are the most; that it was refused more is told."""
    made = "made = 0\ntry:\n while made < 50:\n  if not os.fork(): time.sleep(60)\n  made += 1\nexcept OSError: pass"
    code = f"import os, time\n{made}\nprint(made)"
    runner.start(bench.order("a", python(code), limits=(0, 0, 5), start_path=start_path))

    ended = await bench.ended("a")

    assert streams(whole_ledger(runner, ended.key))[0] == b"4\n"
    assert (ended.cause, ended.exit_code) == (Cause.EXIT, 0)
    assert "its limit is 5" in ended.evidence
    assert not bench.living()


async def test_processors_are_shared_out(bench: Bench, runner: Runner) -> None:
    """A tenth of a processor for half a second of the clock is about 50 ms of its time."""
    burn = "import time\nuntil = time.monotonic() + 1.0\nwhile time.monotonic() < until: pass"
    runner.start(bench.order("a", python(burn), limits=(0, 0.1, 0)))

    ended = await bench.ended("a")

    assert ended.exit_code == 0
    assert ended.usage.cpu_user_s + ended.usage.cpu_system_s < 0.5


async def test_a_limited_program_that_behaves_has_a_plain_end_with_the_peak_of_its_tree(
    bench: Bench, runner: Runner
) -> None:
    """All limits at once; the same shim then runs one without any."""
    runner.start(bench.order("a", sh("exit 0"), limits=(64 * MIB, 1.0, 20)))
    ended = await bench.ended("a")
    assert (ended.cause, ended.exit_code, ended.evidence) == (Cause.EXIT, 0, "the program exited with code 0 by itself")
    assert 0 < ended.usage.memory_bytes_max < 64 * MIB
    assert not limit_groups(bench)

    runner.start(bench.order("b", sh("cat /proc/self/cgroup")))
    ended = await bench.ended("b")
    lines = streams(whole_ledger(runner, ended.key))[0].decode().splitlines()
    assert not [line for line in lines if "memory" in line and "hostler" in line]


async def test_a_limit_that_cannot_be_set_starts_nothing(bench: Bench, runner: Runner) -> None:
    """A promise that cannot be kept is told as an end, and the program never ran."""
    with pytest.raises(CannotLimit, match="no control groups for memory"):
        LimitGroup("x", Bounds(memory_bytes=1), {})
    runner.start(bench.order("a", ("touch", "ran"), limits=(0, 0, -5)))

    ended = await bench.ended("a")

    assert (ended.cause, ended.started_at_us) == (Cause.NOT_STARTED, 0)
    assert "its control group cannot be given its limit of pids" in ended.error
    assert not (bench.place / "ran").exists()
    assert not limit_groups(bench)


async def test_a_killed_shim_leaves_no_limited_group(bench: Bench, runner: Runner) -> None:
    """Whoever cleans up after it ends what is inside, and removes the groups."""
    runner.start(bench.order("a", sh("sleep 300 & sleep 300"), limits=(64 * MIB, 1.0, 20)))
    await eventually(lambda: next((e for e in bench.events if isinstance(e, Started)), None), "its start")
    assert len(limit_groups(bench)) == 3

    (shim,) = (link.pid for link in runner._links.values() if link.orders)
    os.kill(shim, signal.SIGKILL)

    ended = await bench.ended("a")
    assert ended.cause is Cause.SUPERVISOR_DIED
    assert not bench.living()
    await eventually(lambda: not limit_groups(bench) or None, "the removal of its groups")


async def test_groups_of_a_shim_that_died_with_its_agent_are_removed_by_the_next(bench: Bench) -> None:
    """Their names are in the segment."""
    async with bench.runner() as first:
        first.start(bench.order("a", sh("sleep 300"), limits=(64 * MIB, 0, 20)))
        await eventually(lambda: next((e for e in bench.events if isinstance(e, Started)), None), "its start")
        (shim,) = (link.pid for link in first._links.values() if link.orders)
        os.kill(shim, signal.SIGSTOP)
    os.kill(shim, signal.SIGKILL)
    assert len(limit_groups(bench)) == 2

    async with bench.runner() as second:
        await recover(second, [bench.key("a")])
        await eventually(lambda: not limit_groups(bench) or None, "the removal of its groups")
        assert not bench.living()
        await bench.end_all(second)


async def test_a_worker_tries_out_what_it_can_keep() -> None:
    """In a process of its own, of which nothing stays."""
    assert await limits_kept() == ABILITIES[:3]
    folders = (each for _, names, _ in os.walk("/sys/fs/cgroup") for each in names)
    assert not [each for each in folders if each.startswith("hostler-probe")]


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Work(argv=("x",)), (False, False, ())),
        (Work(argv=("x",), limits=Limits(cpus=0.5)), (False, False, (0, 0.5, 0))),
        (Work(argv=("x",), merge=True, output_stop=True, output_bytes_max=1), (True, True, ())),
        (Work(python=PythonScript(path="a.py"), merge=True, limits=Limits(pids=3)), (True, False, (0, 0.0, 3))),
        (Work(container=Container(image="i"), merge=True, limits=Limits(memory_bytes=1 << 30)), (True, False, ())),
    ],
)
def test_an_order_has_the_limits_of_its_work(work: Work, expected: tuple[bool, bool, tuple[float, ...]]) -> None:
    """But those of a container, which podman keeps."""
    start = workers_pb2.Start(sequence=1, key=types_pb2.AttemptKey(job="j", attempt=1), work=work_to_bytes(work))
    order = Starts().understood(start).order
    assert (order.merge, order.output_stop, tuple(order.limits)) == expected


# -- output


async def test_merged_streams_keep_their_order_as_standard_output(bench: Bench, runner: Runner) -> None:
    """One pipe for both."""
    script = "for n in 1 2 3 4 5 6 7 8 9; do echo out $n; echo err $n >&2; done"
    runner.start(bench.order("a", sh(script), merge=True))

    ended = await bench.ended("a")

    expected = "".join(f"out {n}\nerr {n}\n" for n in range(1, 10)).encode()
    assert streams(whole_ledger(runner, ended.key)) == (expected, b"", [])
    assert (ended.out_bytes, ended.err_bytes) == (len(expected), 0)


async def test_more_output_than_allowed_ends_the_tree(bench: Bench, runner: Runner) -> None:
    """As a timeout does: SIGTERM, the job's grace, and the log says how much is missing."""
    script = "trap 'exit 3' TERM; while :; do echo 123456789; done"
    runner.start(bench.order("a", sh(script), output_bytes_max=1000, output_stop=True, grace_s=10.0))

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code, ended.out_bytes) == (Cause.OUTPUT_LIMIT, 3, 1000)
    assert "we sent SIGTERM" in ended.evidence
    (gap, *_) = [f for f in frames.iter_frames(whole_ledger(runner, ended.key)) if f.kind == frames.GAP]
    assert frames.parse_gap(gap.payload)[0] > 0


async def test_a_program_that_is_over_before_we_look_has_written_too_much_all_the_same(
    bench: Bench, runner: Runner
) -> None:
    """The cause does not depend on who is faster; exactly as much as allowed is fine."""
    for number in range(5):
        order = bench.order(f"n{number}", sh("printf 12345678901"), output_bytes_max=10, output_stop=True)
        runner.start(order)
        runner.start(order._replace(key=bench.key(f"m{number}"), output_bytes_max=11))
        ended = await bench.ended(f"n{number}")
        assert (ended.cause, ended.out_bytes) == (Cause.OUTPUT_LIMIT, 10)
        assert (await bench.ended(f"m{number}")).cause is Cause.EXIT


async def test_output_that_was_held_back_counts_towards_its_limit(bench: Bench, runner: Runner) -> None:
    """What may have been the beginning of a secret, and was none when the stream ended."""
    env = {"SECRET": "abcdefgh"}
    order = bench.order("a", sh("printf 12345678abcd"), env=env, masked=("SECRET",), output_stop=True)
    runner.start(order._replace(output_bytes_max=10))
    runner.start(order._replace(key=bench.key("b"), output_bytes_max=12))

    over, well = await bench.ended("a"), await bench.ended("b")

    assert (over.cause, over.out_bytes, over.dropped_bytes) == (Cause.OUTPUT_LIMIT, 10, 2)
    assert (well.cause, well.out_bytes, well.dropped_bytes) == (Cause.EXIT, 12, 0)


# -- version 2, which this machine's kernel may not have, with files in its place


def _unified(place: Path, enabled: dict[str, str]) -> Hierarchy:
    """A version 2 hierarchy of files; *enabled* are the controllers of the children of each directory."""
    for inside, names in enabled.items():
        directory = place / inside
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu memory pids hugetlb\n")
        (directory / "cgroup.subtree_control").write_text(names)
        (directory / "cgroup.procs").write_text("")
    return Hierarchy(str(place), str(place / list(enabled)[-1]), frozenset({"rw"}), version2=True)


def _make_group_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that are made get the files of a control group, and lose them when they are removed."""
    make, remove = os.mkdir, os.rmdir
    names = ("memory.max", "memory.swap.max", "memory.peak", "memory.events", "cpu.max", "pids.max", "pids.events")

    def mkdir(path: str, mode: int = 0o777) -> None:
        make(path, mode)
        for name in (*names, "cgroup.procs"):
            Path(path, name).write_text("")

    def rmdir(path: str) -> None:
        for file in Path(path).iterdir():
            file.unlink()
        remove(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "rmdir", rmdir)


def test_version_2_groups_are_made_below_the_nearest_ancestor_that_has_the_controllers(tmp_path: Path) -> None:
    """Not below the own group, which has processes in it."""
    layout = {"": "cpu memory pids", "user": "cpu memory pids", "user/session": "", "user/session/shim": ""}
    hierarchy = _unified(tmp_path, layout)
    (tmp_path / "user/session/cgroup.subtree_control").unlink()  # as one that cannot be written
    places = find_places([hierarchy])
    assert {place.parent for place in places.values()} == {str(tmp_path / "user")}
    assert {place.home for place in places.values()} == {str(tmp_path / "user/session/shim")}
    assert set(places) == {"cpu", "memory", "pids"}


def test_version_1_is_used_where_a_controller_is_there(tmp_path: Path) -> None:
    """A controller can be in one hierarchy only."""
    old = tmp_path / "memory"
    old.mkdir()
    unified = _unified(tmp_path / "unified", {"": "cpu pids", "home": ""})
    places = find_places([unified, Hierarchy(str(old), str(old), frozenset({"rw", "memory"}), version2=False)])
    assert (places["memory"].version2, places["memory"].parent) == (False, str(old))
    assert (places["pids"].version2, places["pids"].parent) == (True, str(tmp_path / "unified"))


def test_a_version_2_group_has_every_limit_in_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the shim while it is inside, the limits themselves from then on, counters at the end, nothing left."""
    places = find_places([_unified(tmp_path, {"": "cpu memory pids", "shim": ""})])
    _make_group_files(monkeypatch)
    limiter = Limiter("hostler-1")
    limiter._places = places
    group = limiter.group(Bounds(memory_bytes=8 * MIB, cpus=1.5, pids=7))
    (directory,) = map(Path, group.directories)
    assert group.cgroup is not None
    assert group.cgroup.directory == str(directory)

    group.enter()
    assert directory.name == "hostler-1.1"
    inside = {name: (directory / name).read_text() for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max")}
    assert inside == {"memory.max": str(64 * MIB), "memory.swap.max": "0", "cpu.max": "150000 100000", "pids.max": "8"}
    assert (directory / "cgroup.procs").read_text() == "0"
    group.leave()
    assert (tmp_path / "shim/cgroup.procs").read_text() == "0"
    assert group.tighten()
    assert (directory / "memory.max").read_text().startswith(str(8 * MIB))
    assert (directory / "pids.max").read_text() == "7"

    (directory / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n")
    (directory / "memory.peak").write_text("8388608\n")
    (directory / "pids.events").write_text("max 4\n")
    assert group.seen() == Seen(2, 8 * MIB, 4, ())
    assert group.remove()
    assert not directory.exists()


# -- causes


def test_who_cannot_step_out_does_not_say_that_nothing_was_started(tmp_path: Path) -> None:
    """A failure of the operating system would be told as a failed start, while the program runs."""
    group = LimitGroup("g", Bounds(pids=3), {"pids": Place(str(tmp_path), str(tmp_path / "gone"), True)})
    with pytest.raises(RuntimeError, match="cannot leave"):
        group.leave()


@pytest.mark.parametrize(
    ("facts", "cause", "said"),
    [
        (Facts(0), Cause.EXIT, "exited with code 0 by itself"),
        (Facts(3 << 8), Cause.EXIT, "exited with code 3 by itself"),
        (Facts(KILLED), Cause.SIGNAL, "perhaps out of memory, or another user"),
        (Facts(KILLED, passed_on={9}, kernel_killed=1), Cause.SIGNAL, "sent on request"),
        (Facts(KILLED, kernel_killed=1), Cause.OUT_OF_MEMORY, "the kernel ended the program"),
        (Facts(137 << 8, kernel_killed=1), Cause.OUT_OF_MEMORY, "the kernel ended a process of the program"),
        (Facts(3 << 8, kernel_killed=1), Cause.EXIT, "perhaps one of it"),
        (Facts(KILLED, asked=Cause.STOP, killed=True, kernel_killed=1), Cause.STOP, "we sent SIGKILL"),
        (Facts(15, asked=Cause.TIMEOUT, sent=(SentSignal(signal="SIGTERM", at_us=1, processes=1),)), Cause.TIMEOUT, ""),
        (Facts(0, output_over=10), Cause.OUTPUT_LIMIT, "limit of 10 bytes of output; it exited with code 0"),
        (Facts(0, seen=Seen(1)), Cause.EXIT, "the kernel ended a process of it"),
        (Facts(KILLED, seen=Seen(1)), Cause.MEMORY_LIMIT, "the kernel ended the program"),
        (
            Facts(KILLED, pid=7, seen=Seen(2, 5, 0, (Victim(7, "hog"),))),
            Cause.MEMORY_LIMIT,
            "ended hog 7 (the program itself) and 1 more",
        ),
        (Facts(0, bounds=Bounds(pids=5), seen=Seen(0, 0, 2)), Cause.EXIT, "its limit is 5"),
    ],
)
def test_the_cause_follows_from_what_was_seen(facts: Facts, cause: Cause, said: str) -> None:
    """What we asked for, then our limits, then the kernel's count, then the program."""
    found, evidence, plain = judge(facts)
    assert found is cause
    assert said in evidence
    assert plain is (evidence.endswith("by itself"))
