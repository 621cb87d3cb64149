"""A worker has the last word: what its own policy forbids never runs, whoever sends it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostler.errors import InvalidRequest
from hostler.job_checks import check_spec
from hostler.jobs import Container, File, JobSpec, Limits, PythonScript, Service, Work
from hostler.settings import Settings
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.test_worker_program import WITHIN_S, a_program
from tests.worker.whole_worker import a_worker
from worker_agent.local_policy import Containment, Mode, Policy, Refusal, decide, refuses_always, takes_runtime
from worker_agent.policy_file import check_root, policy_of, read_policy
from worker_agent.policy_rules import within

DIGEST = "ab" * 32
LIST = Policy(
    mode=Mode.ALLOW_LIST,
    programs=("/usr/bin/ffmpeg", "/opt/tools/render"),
    scripts=(DIGEST,),
    images=("registry.example/blender:4",),
    services=("https://models.example/v1",),
)
SCRIPT = File(path="script/a.py", digest=DIGEST, size_bytes=1)
PARAMS = File(path="params.json", content=b"{}")
BESIDE = File(path="script/json.py", content=b"")


def a_script(*files: File, interpreter: str = "") -> Work:
    """A job with a Python script."""
    return Work(python=PythonScript(path="script/a.py", interpreter=interpreter), files=files, workspace=True)


def rule_of(policy: Policy, work: Work, workload: str = "", *secrets: str) -> str:
    """The rule that forbids a work; empty: it may run."""
    decided = decide(policy, work, workload, secrets)
    return decided.rule if isinstance(decided, Refusal) else ""


NAMED = Policy(mode=Mode.NAMED, workloads=("render", "scan-*"))
ROOTS = Policy(roots=("/srv/in", "/data"))
MOUNT = Work(container=Container(image="i", volumes=("/srv/in/a:/a",)))
LIMITS = Policy(timeout_max_s=60, memory_bytes_max=1 << 30, cpus_max=2, pids_max=100, output_bytes_max=1000)
BOX = Work(container=Container(image="registry.example/blender:4"))
TRUE = Work(argv=("true",))


@pytest.mark.parametrize(
    ("policy", "work", "workload", "rule"),
    [
        (Policy(), TRUE, "", ""),
        (NAMED, TRUE, "render", ""),
        (NAMED, TRUE, "scan-faces", ""),
        (NAMED, TRUE, "", "mode"),
        (NAMED, TRUE, "rende", "workloads"),
        (NAMED, TRUE, "render2", "workloads"),
        (NAMED, TRUE, "render\n", "workloads"),
        (NAMED, TRUE, "a-scan-b", "workloads"),
        (Policy(mode=Mode.NAMED), TRUE, "anything", ""),
        (NAMED, a_script(SCRIPT, PARAMS, File(path="inputs/json.py")), "render", ""),
        (NAMED, a_script(SCRIPT, BESIDE), "render", "files"),
        (NAMED, a_script(SCRIPT, File(path="script/json/__init__.py")), "render", "files"),
        (NAMED, a_script(SCRIPT, File(path="json.py")), "render", "files"),
        (NAMED, replace(TRUE, files=(File(path=".local/lib/x.pth"),)), "render", "files"),
        (NAMED, Work(python=PythonScript(path="inputs/a.py"), files=(File(path="inputs/a.py"),)), "render", "files"),
        (Policy(), a_script(SCRIPT, BESIDE), "", ""),
        (LIST, Work(argv=("/usr/bin/ffmpeg", "-i", "x")), "", ""),
        (LIST, Work(argv=("ffmpeg",)), "", ""),
        (LIST, Work(argv=("/usr/bin/ffmpeg2",)), "", "programs"),
        (LIST, Work(argv=("/usr/bin/../bin/ffmpeg",)), "", "programs"),
        (LIST, Work(argv=("./ffmpeg",)), "", "programs"),
        (LIST, Work(argv=("bin/ffmpeg",)), "", "programs"),
        (LIST, Work(argv=("sh",)), "", "programs"),
        (LIST, Work(argv=("sh",)), "render", "programs"),  # the workload's name is the coordinator's word
        (LIST, Work(), "", "programs"),
        (replace(LIST, workloads=("render",)), Work(argv=("ffmpeg",)), "", "workloads"),
        (LIST, a_script(SCRIPT), "", ""),
        (LIST, a_script(replace(SCRIPT, digest="cd" * 32)), "", "scripts"),
        (LIST, a_script(replace(SCRIPT, digest="", content=b"x")), "", "scripts"),
        (LIST, a_script(SCRIPT, BESIDE), "", "scripts"),
        (LIST, a_script(), "", "scripts"),
        (LIST, a_script(SCRIPT, interpreter="/opt/py/bin/python"), "", "programs"),
        (LIST, BOX, "", ""),
        (LIST, Work(container=Container(image="registry.example/blender:4.1")), "", "images"),
        (LIST, Work(service=Service(url="https://models.example/v1")), "", ""),
        (LIST, Work(service=Service(url="https://models.example/v1/x")), "", "services"),
        (LIST, Work(service=Service(name="s", container=Container(image="other"))), "", "images"),
        (LIST, Work(argv=("ffmpeg",), env={"LD_PRELOAD": "x"}), "", "environment"),
        (LIST, Work(argv=("ffmpeg",), env={"HOSTLER_PARAM_A": "x"}), "", ""),
        (replace(LIST, environment=("AV_*",)), Work(argv=("ffmpeg",), env={"AV_LOG": "1"}), "", ""),
        (replace(LIST, environment=("AV_*",)), Work(argv=("ffmpeg",), env={"XAV_LOG": "1"}), "", "environment"),
        (Policy(environment=()), Work(argv=("a",), env={"A": ""}), "", "environment"),
        (Policy(), Work(argv=("a",), env={"HOSTLER_ATTEMPT": "x"}), "", "environment"),
        (Policy(), Work(argv=("a",), env={"HOSTLER_RESULT_FILE": "/etc/x"}), "", "environment"),
        (Policy(), Work(argv=("a",), env={"HOSTLER_COMPUTE_ONLY": "1"}), "", ""),
        (ROOTS, Work(argv=("a",), cwd="/srv/in"), "", ""),
        (ROOTS, Work(argv=("a",), cwd="/srv/in/deep/er"), "", ""),
        (ROOTS, Work(argv=("a",), cwd="/srv/input"), "", "roots"),
        (ROOTS, Work(argv=("a",), cwd="/srv/in/../x"), "", "roots"),
        (ROOTS, Work(argv=("a",), cwd="srv/in"), "", "roots"),
        (ROOTS, Work(argv=("a",), cwd="/"), "", "roots"),
        (ROOTS, MOUNT, "", ""),
        (ROOTS, Work(container=Container(image="i", volumes=("/etc:/a",))), "", "roots"),
        (Policy(), Work(container=Container(image="i", capabilities=("NET_RAW",))), "", ""),
        (Policy(run_as="a"), Work(container=Container(image="i", capabilities=("NET_RAW",))), "", "capabilities"),
        (Policy(capabilities=()), Work(container=Container(image="i", capabilities=("NET_RAW",))), "", "capabilities"),
        (Policy(capabilities=("NET_RAW",)), Work(container=Container(image="i", capabilities=("NET_RAW",))), "", ""),
        (LIMITS, Work(argv=("a",), timeout_s=61), "", "timeout_max_s"),
        (LIMITS, Work(argv=("a",), limits=Limits(memory_bytes=2 << 30)), "", "memory_bytes_max"),
        (LIMITS, Work(argv=("a",), limits=Limits(cpus=3)), "", "cpus_max"),
        (LIMITS, Work(argv=("a",), limits=Limits(pids=101)), "", "pids_max"),
        (LIMITS, Work(container=Container(image="i", pids=101)), "", "pids_max"),
        (LIMITS, Work(argv=("a",), output_bytes_max=1001), "", "output_bytes_max"),
        (Policy(), Work(argv=("a",), stdin_path="../../etc/shadow"), "", "paths"),
        (Policy(), Work(argv=("a",), stdin_path="/etc/shadow"), "", "paths"),
        (Policy(), Work(argv=("a",), files=(File(path="inputs/../../x"),)), "", "paths"),
        (Policy(), Work(python=PythonScript(path="/opt/x.py")), "", "paths"),
    ],
)
def test_every_rule_takes_exact_names_and_no_prefix(policy: Policy, work: Work, workload: str, rule: str) -> None:
    """What differs from the rule by a letter, a dot or a slash is refused, and the refusal names the rule."""
    assert rule_of(policy, work, workload) == rule


def test_a_secret_is_a_variable_like_any_other() -> None:
    """A coordinator cannot set with its secrets what a job may not set."""
    assert rule_of(Policy(), TRUE, "", "HOSTLER_JOB") == "environment"
    assert rule_of(LIST, Work(argv=("ffmpeg",)), "", "LD_PRELOAD") == "environment"
    assert refuses_always(TRUE, ["TOKEN"]) is None


def test_a_submit_is_told_at_once_which_names_are_hostlers_own() -> None:
    """Sooner than the worker would, and with the field; what gateways and parameters set is let through."""
    for name, field in (("HOSTLER_JOB", "env"), ("HOSTLER_", "env"), ("HOSTLER_PARAM_X", ""), ("HOSTLERS", "")):
        wrong = check_spec(JobSpec(work=Work(argv=("true",), env={name: ""})))
        assert (wrong.field if wrong is not None else "") == field, name


def test_what_a_job_leaves_open_becomes_the_policys() -> None:
    """Limits that are not asked for are set, smaller ones stay, and a program of the list is named by its path."""
    policy = replace(LIMITS, containment=(Containment.HARDENED,))

    made = decide(policy, Work(argv=("a",), timeout_s=5, start_path="warm"), "")
    box = decide(policy, BOX, "")
    listed = decide(LIST, Work(argv=("render", "-x")), "")

    assert isinstance(made, Work) and isinstance(box, Work) and isinstance(listed, Work)
    assert (made.timeout_s, made.output_bytes_max, made.start_path) == (5, 1000, "hardened")
    assert made.limits == Limits(memory_bytes=1 << 30, cpus=2, pids=100)
    assert box.container is not None and (box.container.memory_bytes, box.container.pids) == (1 << 30, 100)
    assert listed.argv == ("/opt/tools/render", "-x")


# The file


def a_file(place: Path, text: str) -> Path:
    """A policy file that its worker believes."""
    path = place / "policy.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_policy_file_is_read_with_every_rule(tmp_path: Path) -> None:
    """All types of values."""
    text = f"""
        mode = "allow-list"
        programs = ["/usr/bin/ffmpeg"]
        scripts = ["{DIGEST}"]
        environment = ["AV_*"]
        roots = ["/srv/in"]
        timeout_max_s = 60
        cpus_max = 1.5
        containment = ["cgroup", "hardened"]
        private_tmp = true
        slot_users = "60000-60007"
    """

    policy = read_policy(a_file(tmp_path, text))

    assert policy.mode is Mode.ALLOW_LIST
    assert (policy.programs, policy.environment, policy.cpus_max) == (("/usr/bin/ffmpeg",), ("AV_*",), 1.5)
    assert policy.containment == (Containment.CGROUP, Containment.HARDENED)
    assert policy.switches


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('mode = "alow"', "mode is 'alow'; it is one of 'named', 'allow-list', 'arbitrary'"),
        ("mode = []", "mode is []; it is one of"),
        ("modus = 1", "unknown rule 'modus'"),
        ("mode =", "policy file"),
        ('programs = ["ffmpeg"]\nmode = "allow-list"', "absolute path"),
        ('roots = ["/srv/../etc"]', "absolute path"),
        ('roots = ["/srv/"]', "absolute path"),
        ('programs = ["/bin/a"]', "allow-list only"),
        ('workloads = ["a"]', "named and allow-list only"),
        ('scripts = ["x"]\nmode = "allow-list"', "SHA-256"),
        ('run_as = "a"\nslot_users = "b-%d"', "not both"),
        ("timeout_max_s = -1", "timeout_max_s"),
        ("private_tmp = true", "hardened"),
        ('work_dir = "x"', "absolute"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A rule that is misspelt must not be no rule."""
    with pytest.raises(InvalidRequest, match="policy file") as refused:
        read_policy(a_file(tmp_path, text))
    assert said in refused.value.message


def test_a_policy_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Neither the file nor a directory above it may be another's, or writable by others."""
    folder = tmp_path / "etc"
    folder.mkdir()
    path = a_file(folder, "")
    assert read_policy(path) == Policy()

    path.chmod(0o620)
    with pytest.raises(InvalidRequest, match="others can write it"):
        read_policy(path)
    path.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(InvalidRequest, match="others can write it"):
        read_policy(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(InvalidRequest, match="others can write it"):
        read_policy(link)
    folder.chmod(0o755)
    assert read_policy(path) == read_policy(link) == Policy()
    if os.getuid() == 0:
        os.chown(path, 65534, 65534)
        with pytest.raises(InvalidRequest, match="must be root's"):
            read_policy(path)
    with pytest.raises(InvalidRequest, match="No such file"):
        read_policy(folder / "none")


def test_without_a_file_another_hosts_coordinator_gets_registered_workloads_only() -> None:
    """On one host anything goes, as for whoever started it; --allow-arbitrary gives the same to another host."""
    assert policy_of(Settings(), elsewhere=False) == Policy()
    assert policy_of(Settings(), elsewhere=True).mode is Mode.NAMED
    assert policy_of(Settings(workloads=("a*",)), elsewhere=True).workloads == ("a*",)
    assert policy_of(Settings(allow_arbitrary=True), elsewhere=True) == Policy()


@pytest.mark.parametrize(
    ("settings", "policy", "starts"),
    [
        (Settings(), Policy(), False),
        (Settings(parent_fd=3), Policy(), True),
        (Settings(allow_root=True), Policy(), True),
        (Settings(), Policy(allow_root=True), True),
        (Settings(), Policy(run_as="daemon"), True),
        (Settings(), Policy(slot_users="60000-60001"), True),
    ],
)
def test_a_worker_of_root_runs_jobs_as_root_only_when_that_was_said(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, policy: Policy, starts: bool
) -> None:
    """`up` and `run` have a parent, and whoever typed them was told."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    if starts:
        check_root(settings, policy)
        return
    with pytest.raises(InvalidRequest, match="run_as or slot_users"):
        check_root(settings, policy)


def test_only_root_can_run_jobs_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker says so at its start, not with each job."""
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    check_root(Settings(), Policy())
    with pytest.raises(InvalidRequest, match="runs as root"):
        check_root(Settings(), Policy(run_as="daemon"))


def test_volumes_are_what_both_the_setting_and_the_roots_allow(tmp_path: Path) -> None:
    """The deeper one of each pair, with links resolved."""
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    allowed = (f"{tmp_path}/link/b", f"{tmp_path}/c", "/etc")

    assert within(allowed, (f"{tmp_path}/a", f"{tmp_path}/c")) == (f"{tmp_path}/a/b", f"{tmp_path}/c")
    assert within((str(tmp_path),), (f"{tmp_path}/c",)) == (f"{tmp_path}/c",)
    assert within(("/etc",), (str(tmp_path),)) == ()


@pytest.mark.parametrize(
    ("policy", "named_only", "takes_some"),
    [
        (Policy(), False, False),
        (Policy(mode=Mode.NAMED), True, False),
        (Policy(mode=Mode.NAMED, workloads=("a*",)), True, True),
        (Policy(mode=Mode.ALLOW_LIST, programs=("/bin/true",)), False, False),
        (Policy(mode=Mode.ALLOW_LIST, programs=("/bin/true",), workloads=("a",)), True, True),
    ],
)
def test_what_a_worker_says_of_its_policy_is_what_it_does(policy: Policy, named_only: bool, takes_some: bool) -> None:
    """Nothing that it refuses is sent there, and nothing that it takes is kept from it."""
    assert (policy.named_only, policy.takes_some) == (named_only, takes_some)
    assert isinstance(decide(policy, Work(argv=("/bin/true",)), ""), Refusal) == named_only
    assert isinstance(decide(policy, Work(argv=("/bin/true",)), "b"), Refusal) == takes_some


LISTING = {
    "command": Policy(mode=Mode.ALLOW_LIST, programs=("/bin/true",)),
    "python": Policy(mode=Mode.ALLOW_LIST, scripts=("a" * 64,)),
    "container": Policy(mode=Mode.ALLOW_LIST, images=("a",)),
    "service": Policy(mode=Mode.ALLOW_LIST, services=("http://a",)),
}


@pytest.mark.parametrize("kind", list(LISTING))
def test_an_allow_list_without_any_of_a_kind_says_that_it_runs_none(kind: str) -> None:
    """It is not asked to run what it would refuse whatever it is; what it names, it runs."""
    assert takes_runtime(LISTING[kind], kind)
    assert takes_runtime(Policy(mode=Mode.NAMED), kind)
    assert not takes_runtime(Policy(mode=Mode.ALLOW_LIST), kind)
    # A service may be a container that the worker runs.
    others = [policy for name, policy in LISTING.items() if name not in (kind, "container")]
    assert not any(takes_runtime(policy, kind) for policy in others)


# A coordinator that sends what is forbidden


async def test_what_a_coordinator_sends_against_the_policy_never_runs_and_is_reported(
    bench: Bench, coordinator: FakeCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report says that it never ran, with the rule; the refusal is logged; what is allowed runs."""
    policy = Policy(mode=Mode.ALLOW_LIST, programs=("/bin/true",), timeout_max_s=30)
    mark = bench.place / "mark"
    forbidden: dict[str, tuple[Work, dict[str, Any]]] = {
        "programs": (Work(argv=sh(f"touch {mark}")), {}),
        "environment": (Work(argv=("/bin/true",), env={"LD_PRELOAD": "/tmp/x.so"}), {}),
        "secret": (Work(argv=("/bin/true",)), {"secrets": {"LD_PRELOAD": "/tmp/x.so"}}),
        "timeout_max_s": (Work(argv=("/bin/true",), timeout_s=31), {}),
        "paths": (Work(argv=("/bin/true",), stdin_path="../../../etc/shadow"), {}),
        "workload": (Work(argv=sh(f"touch {mark}"), workspace=True), {"workload": "render"}),
    }
    async with a_worker(bench, coordinator, policy=policy) as worker:
        for name, (work, more) in forbidden.items():
            coordinator.start(bench.key(name), work, **more)
            report = await coordinator.over(bench.key(name))
            assert report.never_ran and not report.HasField("end"), name
            rule = {"secret": "environment", "workload": "programs"}.get(name, name)
            assert f"rule {rule}: " in report.refusal
            assert report.elsewhere, "another worker may have another policy"
        coordinator.start(bench.key("good"), Work(argv=("true",)))
        assert (await coordinator.over(bench.key("good"))).end.exit_code == 0
        await eventually(lambda: not worker.agent.assignments.held, "everything to be acknowledged")
    assert not mark.exists()
    assert capsys.readouterr().out.count("policy.refused") == len(forbidden)


async def test_names_of_hostlers_own_cannot_be_set_even_without_a_policy(
    bench: Bench, coordinator: FakeCoordinator
) -> None:
    """A job that could name its result file would have the agent read another one's."""
    async with a_worker(bench, coordinator):
        coordinator.start(bench.key("a"), Work(argv=("true",), env={"HOSTLER_RESULT_FILE": "/etc/passwd"}))
        assert "HOSTLER_RESULT_FILE" in (await coordinator.over(bench.key("a"))).refusal


async def test_a_worker_of_root_without_a_word_about_it_does_not_start(
    bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Exit code 2 and a sentence that says what to do; for an ordinary user it starts."""
    if os.getuid() != 0:
        return
    with a_program(bench.place, coordinator, allow_root=False) as program:
        await eventually(lambda: program.poll() is not None, "the worker to give up", WITHIN_S)
        assert program.returncode == 2
    assert "--allow-root" in (bench.place / "worker.log").read_text()


async def test_a_worker_program_takes_its_policy_from_its_file(bench: Bench, coordinator: FakeCoordinator) -> None:
    """The file is named by a setting, and decides in the agent."""
    path = a_file(bench.place, 'mode = "named"\nworkloads = ["b"]\nallow_root = true\n')
    with a_program(bench.place, coordinator, allow_root=False, policy_file=str(path)):
        await eventually(lambda: coordinator.hellos, "the worker to connect", WITHIN_S)
        hello = coordinator.hellos[0]
        assert (hello.policy, hello.named_only, list(hello.workloads)) == ("named", True, ["b"])
        coordinator.start(bench.key("a"), Work(argv=("true",)))
        assert "rule mode: " in (await coordinator.over(bench.key("a"))).refusal
        coordinator.start(bench.key("b"), Work(argv=("true",)), workload="b")
        assert (await coordinator.over(bench.key("b"))).end.exit_code == 0


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"\x0a\x7f"])
async def test_what_a_worker_does_not_understand_is_refused_and_ends_no_agent(
    bench: Bench, coordinator: FakeCoordinator, content: bytes
) -> None:
    """A newer coordinator may speak of things that are not known here; other attempts go on."""
    async with a_worker(bench, coordinator):
        coordinator.start(bench.key("odd"), content)
        coordinator.start(bench.key("good"), Work(argv=("true",)))

        report = await coordinator.over(bench.key("odd"))
        assert report.never_ran and "does not understand" in report.refusal
        assert (await coordinator.over(bench.key("good"))).end.exit_code == 0
