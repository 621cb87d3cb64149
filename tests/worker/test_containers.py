"""Attempts in podman containers, on a whole worker: what goes in and out, what is allowed, and that nothing stays."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from hostler.jobs import Container, File, Limits, Work
from tests.worker.container_bench import IMAGE, PodmanBench, a_podman
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually
from tests.worker.whole_worker import Worker, a_worker
from worker_agent.confinement import Confinement, User
from worker_agent.shared_place import make_shared
from worker_agent.slot_users import Confining

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanBench]:
    """A podman of these tests."""
    with a_podman() as made:
        yield made


@pytest.fixture
async def worker(bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench) -> AsyncIterator[Worker]:
    """A worker that offers containers and lets them mount one directory; afterwards nothing of them is left."""
    (bench.place / "shared").mkdir()
    allowed = (str(bench.place / "shared"),)
    async with a_worker(bench, coordinator, podman_options=podman.options, volumes_allowed=allowed) as made:
        yield made
    await asyncio.to_thread(podman.wait_for_nothing)


def contained(code: str, *files: File, work: Work = Work(), **fields: object) -> Work:  # noqa: B008 - frozen
    """A shell snippet in a container."""
    container = Container(image=IMAGE, **fields)  # type: ignore[arg-type]
    return replace(work, argv=("sh", "-c", code), files=files, container=container, grace_s=0.0)


def params(value: object) -> File:
    """The parameters of a job."""
    return File(path="params.json", content=json.dumps(value).encode())


async def test_json_goes_in_and_json_comes_out(worker: Worker, bench: Bench, coordinator: FakeCoordinator) -> None:
    """Standard input, standard output, exit code and standard error are the container's own."""
    key = bench.key("a")
    work = Work(stdin_path="params.json", result_stdout=True)
    coordinator.start(key, contained('read x; echo noise >&2; echo "{\\"got\\": $x}"', params({"n": 1}), work=work))

    report = await coordinator.over(key)

    assert report.end.exit_code == 0, report
    assert json.loads(report.end.result) == {"got": {"n": 1}}
    assert (report.end.cause, report.end.err_bytes) == ("exit", 6)
    assert report.end.receipt.verified_by == "wait"
    assert not report.end.HasField("failure")


async def test_files_variables_and_outputs_are_inside_at_their_own_paths(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Inputs read-only, outputs writable for the user inside, progress, the result file, lines in a variable."""
    key = bench.key("a")
    code = (
        "cat /inputs/deep/x > /outputs/x; mkdir /outputs/sub; echo sub > /outputs/sub/y; touch /inputs/z && exit 9;"
        'env > /outputs/env; printf "%s" "$HOSTLER_PARAM_TEXT" > /outputs/text;'
        'cat "$HOSTLER_PARAMS_FILE" > /outputs/params;'
        'echo \'{"percent": 30}\' >> "$HOSTLER_PROGRESS_FILE"; echo \'[7]\' > "$HOSTLER_RESULT_FILE"; umask 077;'
        "echo private > /outputs/private; [ -e /hostler/plan.json ] && exit 8; exit 3"
    )
    env = {"PATH": "/bin", "FREE": "a b", "HOSTLER_PARAM_TEXT": "one\ntwo", "LD_PRELOAD": "/nothing", "TOKEN": "secret"}
    files = (coordinator.file("inputs/deep/x", b"stored"), params({"p": 1}))
    work = contained(code, *files, work=Work(env=env, workspace=True))
    coordinator.start(key, work, secrets={"TOKEN": "quiet\nvalue"})

    report = await coordinator.over(key)

    assert report.end.exit_code == 3, report
    assert [each.path for each in report.outputs] == ["env", "params", "private", "sub/y", "text", "x"]
    assert coordinator.output(report, "x") == b"stored"
    assert coordinator.output(report, "private") == b"private\n"
    assert coordinator.output(report, "text") == b"one\ntwo"
    assert coordinator.output(report, "params") == b'{"p": 1}'
    variables = coordinator.output(report, "env").decode()
    for line in (
        "FREE=a b",
        "LD_PRELOAD=/nothing",
        "TOKEN=quiet",
        "HOSTLER_INPUT_DIR=/inputs",
        f"HOSTLER_ATTEMPT={key}",
    ):
        assert f"{line}\n" in variables
    assert "HOSTLER_WORKSPACE" not in variables
    assert json.loads(report.end.result) == [7]
    assert report.end.advance.percent == 30


async def test_a_container_is_shut_in_unless_it_asks_for_more(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """No root file system to write, no network, no capabilities, nobody as its user, few processes."""
    key, open_key = bench.key("a"), bench.key("b")
    code = (
        "id -u; id -g; touch /bin/x 2>/dev/null; echo $?; touch /tmp/x; echo $?; ip -o link | wc -l;"
        "grep -E 'CapEff|NoNewPrivs' /proc/self/status; cat /sys/fs/cgroup/pids/pids.max; ls -d /root /home 2>/dev/null"
    )
    coordinator.start(key, contained(code, work=Work(env={"PATH": "/bin"})))
    more = {"user": "0:0", "writable": True, "capabilities": ("CHOWN", "KILL"), "pids": 77, "memory_bytes": 64 << 20}
    limit = "; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    coordinator.start(open_key, contained(code + limit, work=Work(env={"PATH": "/bin"}), cpus=0.5, **more))

    await coordinator.over(key)
    await coordinator.over(open_key)

    shut = coordinator.log(key).split("\n")
    assert shut[:7] == ["65534", "65534", "1", "0", "1", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
    assert shut[7:] == ["512", ""]
    opened = coordinator.log(open_key).split("\n")
    assert opened[:8] == ["0", "0", "0", "0", "1", "CapEff:\t0000000000000021", "NoNewPrivs:\t1", "77"]
    assert opened[8:] == [str(64 << 20), "50000", ""]


async def test_who_reaches_the_memory_limit_is_told_so(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The exit code is podman's for SIGKILL; the kernel's log says more, unless it was too full to say it."""
    key = bench.key("a")
    coordinator.start(key, contained("tail /dev/zero", memory_bytes=16 << 20))

    report = await coordinator.over(key)

    assert report.end.cause in ("memory_limit", "exit")
    assert report.end.exit_code == 137
    assert "memory limit" in report.end.evidence


async def test_the_smaller_limit_holds_for_a_container(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The job's or the container's own, and both streams can be one."""
    key = bench.key("a")
    limits = Limits(memory_bytes=32 << 20, cpus=0.5, pids=900)
    code = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us; echo err >&2"
    work = Work(env={"PATH": "/bin"}, limits=limits, merge=True)
    coordinator.start(key, contained(f"{code}; cat /sys/fs/cgroup/pids/pids.max", work=work, memory_bytes=64 << 20))

    report = await coordinator.over(key)

    assert sorted(coordinator.log(key).split()) == sorted([str(32 << 20), "50000", "err", "512"])
    assert (report.end.exit_code, report.end.err_bytes) == (0, 0)


async def test_a_volume_needs_the_leave_of_the_worker(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """What is not allowed never ran, and the refusal names it; a link out of an allowed directory is not followed."""
    shared = bench.place / "shared"
    (shared / "file").write_text("from the host")
    (shared / "link").symlink_to("/etc")
    allowed, other, linked = bench.key("a"), bench.key("b"), bench.key("c")
    coordinator.start(allowed, contained("cat /data/file; touch /data/x", volumes=(f"{shared}:/data:ro",)))
    coordinator.start(other, contained("cat /data/passwd", volumes=("/etc:/data",)))
    coordinator.start(linked, contained("cat /data/passwd", volumes=(f"{shared}/link:/data",)))

    report = await coordinator.over(allowed)

    assert report.end.exit_code == 1
    assert coordinator.log(allowed).startswith("from the host")
    for key in (other, linked):
        report = await coordinator.over(key)
        assert report.never_ran
        assert report.refusal == (
            "container: this worker lets no container mount /etc; see its setting volumes_allowed"
        )


@pytest.mark.parametrize(
    ("image", "code", "error"),
    [
        ("localhost/none:1", "true", "podman: localhost/none:1: image not known"),
        (IMAGE, "", 'podman: runc: runc create failed: unable to start container process: exec: "/none"'),
    ],
)
async def test_what_podman_cannot_start_was_not_started(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, image: str, code: str, error: str
) -> None:
    """A missing image and a missing program; podman's own words say why."""
    key = bench.key("a")
    work = contained(code)
    argv = work.argv if code else ("/none",)
    coordinator.start(key, replace(work, argv=argv, container=Container(image=image)))

    report = await coordinator.over(key)

    assert (report.end.cause, report.end.started_at_us, report.end.HasField("exit_code")) == ("not_started", 0, False)
    assert report.end.error.startswith(error)


@pytest.mark.parametrize("code", [125, 126, 127])
async def test_exit_codes_that_podman_uses_too_are_the_programs_own(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, code: int
) -> None:
    """When it ran."""
    key = bench.key("a")
    coordinator.start(key, contained(f"exit {code}"))

    report = await coordinator.over(key)

    assert (report.end.cause, report.end.exit_code) == ("exit", code)


@pytest.mark.parametrize("how", ["stop", "stop with grace", "timeout"])
async def test_a_container_that_is_ended_leaves_nothing(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, how: str
) -> None:
    """The receipt names its processes; with grace the program hears of it exactly once."""
    key = bench.key("a")
    code = "trap 'echo heard' TERM; sleep 100 & touch /outputs/ready; while true; do wait $!; done"
    work = contained(code, work=Work(workspace=True))
    grace_s = 1.0 if how == "stop with grace" else 0.0
    coordinator.start(key, replace(work, timeout_s=1.5 if how == "timeout" else 0.0))
    if how != "timeout":
        await eventually((worker.path(key) / "outputs/ready").exists, "the program to run")
        coordinator.stop(key, grace_s)

    report = await coordinator.over(key)

    assert report.end.cause == how.split()[0]
    assert report.end.receipt.verified_by.startswith("wait")
    names = [each.name for each in report.end.receipt.ended]
    assert {"podman", "conmon", "sh", "sleep"} <= set(names)
    assert not report.end.receipt.survivors
    assert coordinator.log(key).count("heard") == (1 if grace_s else 0)


async def test_a_container_that_ends_itself_when_asked_is_not_killed(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Its exit code is told, and SIGTERM went to its first process alone."""
    key = bench.key("a")
    code = "trap 'exit 42' TERM; touch /outputs/ready; while true; do sleep 0.05; done"
    coordinator.start(key, contained(code, work=Work(workspace=True)))
    await eventually((worker.path(key) / "outputs/ready").exists, "the program to run")
    coordinator.stop(key, 20.0)

    report = await coordinator.over(key)

    assert (report.end.cause, report.end.exit_code) == ("stop", 42)
    sent = {each.signal: each.processes for each in report.end.receipt.signals}
    assert sent["SIGTERM"] == 1
    assert "SIGKILL" not in sent


async def test_a_stop_before_the_container_is_there_leaves_nothing(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Podman is ended in the middle of making it."""
    keys = [bench.key(f"n{number}") for number in range(4)]
    for number, key in enumerate(keys):
        coordinator.start(key, contained("sleep 100"), slots=0)
        await coordinator.started(key)
        await asyncio.sleep(0.05 * number)
        coordinator.stop(key)

    for key in keys:
        report = await coordinator.over(key)
        assert report.never_ran or report.end.cause == "stop"


async def test_a_container_outlives_its_agent_and_its_end_is_known(
    bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
) -> None:
    """kill -9 of the agent in the middle; what an agent before left behind is removed by the next one."""
    key = bench.key("a")
    async with a_worker(bench, coordinator, podman_options=podman.options) as first:
        code = "touch /outputs/ready; while [ ! -e /outputs/go ]; do sleep 0.05; done; echo '{\"late\": 1}'; exit 0"
        coordinator.start(key, contained(code, work=Work(workspace=True, result_stdout=True)))
        await eventually((first.path(key) / "outputs/ready").exists, "the program to run")
        stray = f"--label=hostler.worker={first.podman.worker}", "--label=hostler.attempt=nobody.0.1"
        await first.podman.call("create", "--name=hostler-stray", *stray, IMAGE, "true")
        await first.killed()
    (first.path(key) / "outputs/go").touch()

    async with a_worker(bench, coordinator, podman_options=podman.options):
        report = await coordinator.over(key)

        assert (report.end.cause, report.end.exit_code) == ("exit", 0)
        assert json.loads(report.end.result) == {"late": 1}
        await asyncio.to_thread(podman.wait_for_nothing)


async def test_a_killed_shim_takes_its_container_with_it(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The outcome is lost, and nothing runs on."""
    key = bench.key("a")
    coordinator.start(key, contained("touch /outputs/ready; sleep 100", work=Work(workspace=True)))
    await eventually((worker.path(key) / "outputs/ready").exists, "the program to run")

    (link,) = [each.link for each in worker.runner._attempts.values()]
    assert link is not None
    os.kill(link.pid, signal.SIGKILL)

    report = await coordinator.over(key)

    assert report.end.cause == "supervisor_died"


if os.geteuid() == 0:

    async def test_containers_run_as_before_where_programs_have_other_users(
        bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
    ) -> None:
        """Podman stays root's, without new privileges; the program has the user of its container."""
        confining = Confining(Confinement(), [User("job", 61001, 61001)])
        bench.place.chmod(0o711)
        shared = make_shared(bench.place / "shared", bench.place / "worker")
        options = podman.options
        async with a_worker(bench, coordinator, podman_options=options, confining=confining, shared=shared):
            work = contained("id -u >/outputs/id; echo '[1]' >$HOSTLER_RESULT_FILE", work=Work(workspace=True))
            coordinator.start(bench.key("a"), work)
            report = await coordinator.over(bench.key("a"))
            assert report.end.exit_code == 0, report
            assert coordinator.output(report, "id") == b"65534\n"
            assert json.loads(report.end.result) == [1]
        await asyncio.to_thread(podman.wait_for_nothing)
