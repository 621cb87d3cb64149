"""What a worker allows of containers, how podman is told, what of the host decides its options. No podman needed."""

import resource
from pathlib import Path

import psutil
import pytest

from hostler.jobs import Container
from tests.worker.real_runner import Bench, eventually, python, sh
from tests.worker.test_recovery import shim_of
from worker_agent.attempt_events import Started
from worker_agent.attempts import Cause
from worker_agent.podman import Host, look, options_for, reason_of
from worker_agent.runner import Runner
from worker_agent.runtimes.container import environment_arguments, refusal, run_arguments

HERE = Host(
    systemd=False,
    unified=False,
    runc=True,
    may_raise_limits=False,
    files_max=20_000,
    processes_max=resource.RLIM_INFINITY,
)


def test_a_container_that_asks_for_nothing_gets_nothing() -> None:
    """The options of the default, all of them."""
    container = Container(image="localhost/x:1")

    assert refusal(container, ()) == ""
    assert run_arguments(container, name="n", labels={"a": "b"}) == [
        "--name=n",
        "--pull=never",
        "--network=none",
        "--label",
        "a=b",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--user=65534:65534",
        "--pids-limit=512",
        "--read-only",
        "--tmpfs=/tmp:rw,nosuid,nodev,mode=1777,size=536870912",
    ]


def test_a_container_gets_what_it_asks_for() -> None:
    """Limits, a network, a user, capabilities, a root file system to write, volumes without devices and rights."""
    container = Container(
        image="localhost/x:1",
        pull="missing",
        memory_bytes=1 << 26,
        cpus=0.5,
        pids=9,
        network="bridge",
        user="1000:100",
        writable=True,
        volumes=("/srv/data:/data:ro", "/srv/more:/more"),
        capabilities=("CHOWN",),
    )

    assert refusal(container, ("/srv",)) == ""
    assert run_arguments(container, name="n", labels={}) == [
        "--name=n",
        "--pull=missing",
        "--network=bridge",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--user=1000:100",
        "--cap-add=CHOWN",
        "--pids-limit=9",
        "--memory=67108864b",
        "--cpus=0.5",
        "--volume=/srv/data:/data:ro,nosuid,nodev",
        "--volume=/srv/more:/more:rw,nosuid,nodev",
    ]


@pytest.mark.parametrize(
    "container",
    [
        Container(image="--privileged"),
        Container(image="docker-archive:/etc/shadow"),
        Container(image="x", network="container:other"),
        Container(image="x", network="ns:/proc/1/ns/net"),
        Container(image="x", user="0:0 --privileged"),
        Container(image="x", capabilities=("ALL",)),
        Container(image="x", volumes=("/srv/../etc:/data",)),
        Container(image="x", volumes=("name:/data",)),
        Container(image="x", volumes=("/srv/data:/outputs/x",)),
        Container(image="x", volumes=("/srv/a:/data", "/srv/b:/data")),
        Container(image="x", volumes=("/srvother:/data",)),
        Container(image="x", volumes=("/:/data",)),
    ],
)
def test_what_leads_past_the_policy_is_refused(container: Container) -> None:
    """With a sentence."""
    assert refusal(container, ("/srv",)).startswith("container: ")


def test_a_link_out_of_an_allowed_directory_is_not_allowed(place: Path) -> None:
    """Where a path leads counts, on both sides."""
    (place / "allowed").mkdir()
    (place / "allowed/link").symlink_to("/etc")
    (place / "alias").symlink_to(place / "allowed")

    assert "/etc" in refusal(Container(image="x", volumes=(f"{place}/allowed/link:/data",)), (f"{place}/allowed",))
    assert refusal(Container(image="x", volumes=(f"{place}/alias:/data",)), (f"{place}/allowed",)) == ""


def test_a_service_has_a_network_of_its_own() -> None:
    """It is called there."""
    container = Container(image="x", network="host")

    assert refusal(container, ()) == ""
    assert "service" in refusal(container, (), serves=True)


def test_variables_of_a_job_never_reach_podman_itself() -> None:
    """Only those of hostler and the secrets go through its environment, where no other user reads them."""
    env = {"PATH": "/evil", "LD_PRELOAD": "/evil.so", "HOSTLER_PARAM_X": "1\n2", "KEY": "quiet", "HOSTLER_A*": "y"}

    arguments, through = environment_arguments(env, ["KEY"])

    assert through == {"HOSTLER_PARAM_X": "1\n2", "KEY": "quiet"}
    assert arguments == [
        "--env=PATH=/evil",
        "--env=LD_PRELOAD=/evil.so",
        "--env=HOSTLER_PARAM_X",
        "--env=KEY",
        "--env=HOSTLER_A*=y",
    ]


@pytest.mark.parametrize(
    ("host", "always", "run"),
    [
        (
            HERE,
            ("--log-level=error", "--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime=runc"),
            ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
        ),
        (HERE._replace(systemd=True, unified=True, may_raise_limits=True), ("--log-level=error",), ()),
        (HERE._replace(systemd=True, runc=False, may_raise_limits=True), ("--log-level=error",), ()),
        (
            HERE._replace(systemd=True, unified=True, files_max=1000),
            ("--log-level=error",),
            ("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=4096:4096"),
        ),
    ],
)
def test_the_host_decides_the_options_of_podman(host: Host, always: tuple[str, ...], run: tuple[str, ...]) -> None:
    """Without systemd, with older cgroups, without the right to raise limits: each needs its own."""
    assert options_for(host) == (always, run)


def test_this_host_can_be_looked_at() -> None:
    """Whatever it is."""
    assert look().files_max != 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        ("Trying to pull...\nError: x: not known\n", "x: not known"),
        ("Error: first\nError: second\nWARN: x\n", "second"),
        ("something\nelse\n\n", "else"),
    ],
)
def test_podmans_complaint_is_found(text: str, reason: str) -> None:
    """The last one, else the last line."""
    assert reason_of(text) == reason


async def test_what_cleans_up_after_a_proxy_is_waited_for(bench: Bench, runner: Runner) -> None:
    """It is no leftover: the end is the program's own exit, and nothing was signalled."""
    code = "(sleep 1.5; touch cleaned) & exit 3"
    runner.start(bench.order("a", sh(code), proxy=True))

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code, ended.receipt.signals, ended.receipt.ended) == (Cause.EXIT, 3, (), ())
    assert (bench.place / "cleaned").exists()


@pytest.mark.ci
async def test_what_a_proxy_leaves_is_ended_after_a_while(bench: Bench, runner: Runner) -> None:
    """After ten seconds, and named."""
    runner.start(bench.order("a", sh("sleep 100 & exit 0"), proxy=True))

    ended = await bench.ended("a", 30.0)

    assert ended.cause is Cause.EXIT
    assert [each.name for each in ended.receipt.ended] == ["sleep"]


async def test_a_time_limit_that_is_reached_while_a_proxy_is_cleaned_up_after_costs_no_time(
    bench: Bench, runner: Runner
) -> None:
    """The program is over: there is nothing to be stopped, and the shim looks no further."""
    runner.start(bench.order("a", sh("sleep 0.3; sleep 2 & exit 3"), proxy=True, timeout_s=0.6))
    await eventually(lambda: any(isinstance(e, Started) for e in bench.events), "the start")
    shim = psutil.Process(shim_of(bench, "a"))

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code) == (Cause.EXIT, 3)
    assert sum(shim.cpu_times()[:2]) < 0.5


async def test_a_proxy_alone_is_asked_to_end(bench: Bench, runner: Runner) -> None:
    """Before it has started the program; its exit code and its clean-up count."""
    child = python("import signal, time; signal.signal(15, lambda *_: print('child', flush=True)); time.sleep(100)")
    code = "import subprocess, signal, sys\n"
    code += f"child = subprocess.Popen({child!r})\n"
    code += "def end(*_):\n    child.kill(); print('proxy', flush=True); sys.exit(9)\n"
    code += "signal.signal(15, end); open('ready', 'w').write('\\n'); child.wait()"
    runner.start(bench.order("a", python(code), proxy=True))
    await bench.appears("ready")
    runner.stop(bench.key("a"), grace_s=20.0, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code) == (Cause.STOP, 9)
    assert [(each.signal, each.processes) for each in ended.receipt.signals][:1] == [("SIGTERM", 1)]
