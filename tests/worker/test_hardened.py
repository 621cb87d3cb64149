"""The hardened start path: the same answers as the warm one, and a namespace that nothing gets out of."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from hostler.jobs import File, PythonScript, Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, python, sh, streams, whole_ledger
from tests.worker.test_recovery import crash, shim_of
from tests.worker.test_worker_program import a_program
from tests.zoo import scan
from tests.zoo.test_unkillable import Freezer, mount_of_freezers
from worker_agent import hardened
from worker_agent.attempt_events import Fed, Started
from worker_agent.attempts import Cause, Ended
from worker_agent.capacity import hardened_refusal
from worker_agent.process_tree import read_stat
from worker_agent.recovery import Fate, recover
from worker_agent.runner import Runner


@pytest.fixture
async def runner(bench: Bench) -> AsyncIterator[Runner]:
    """A runner whose programs start on the hardened path when they say nothing else."""
    async with bench.runner(start_path="hardened") as made:
        yield made
        await bench.end_all(made)


def init_of(bench: Bench, name: str) -> int:
    """Return the pid of the init below which an attempt runs."""
    return shim_of(bench, name)


async def started(bench: Bench, name: str) -> Started:
    """Wait until an attempt is told to be running."""
    key = bench.key(name)

    def look() -> Started | None:
        return next((e for e in bench.events if isinstance(e, Started) and e.key == key), None)

    return await eventually(look, f"the start of {name}")


ENDS = {
    "success": sh("echo out; echo err >&2"),
    "code": sh("exit 7"),
    "own signal": sh("kill -KILL $$"),
    "segmentation fault": sh("kill -SEGV $$"),
    "leftovers": sh("sleep 60 & exit 4"),
    "no such program": ("/nope/nothing",),
    "not in the path": ("nothing-of-that-name",),
    "a directory": ("/tmp",),
    "no command": ("",),
    "zero byte": ("/bin/echo", "a\0b"),
}


def told(ended: Ended) -> tuple[object, ...]:
    """What must not depend on the start path."""
    # An init has reaped who died of SIGTERM before SIGCONT follows, a shim has not.
    signals = [(each.signal, each.processes) for each in ended.receipt.signals if each.signal != "SIGCONT"]
    names = sorted(each.name for each in ended.receipt.ended)
    how = (ended.exit_code, ended.signal, ended.core_dumped, ended.cause, ended.evidence, ended.error)
    return (*how, signals, len(names), ended.out_bytes, ended.err_bytes, ended.usage.processes)


@pytest.mark.parametrize("argv", ENDS.values(), ids=ENDS.keys())
async def test_an_end_is_told_as_on_the_warm_path(bench: Bench, runner: Runner, argv: tuple[str, ...]) -> None:
    """Codes, signals, texts of errors, what was left behind, output, number of processes."""
    runner.start(bench.order("warm", argv, start_path="warm"))
    runner.start(bench.order("hard", argv))

    warm, hard = await bench.ended("warm"), await bench.ended("hard")

    assert told(hard) == told(warm)
    if warm.started_at_us:
        assert streams(whole_ledger(runner, hard.key)) == streams(whole_ledger(runner, warm.key))
        assert hard.receipt.verified_by.startswith("namespace")


async def test_a_directory_that_is_not_there_is_told_as_on_the_warm_path(bench: Bench, runner: Runner) -> None:
    """It is the init that changes to it, and what it found reaches the user."""
    runner.start(bench.order("a", sh("true"), cwd="/nope"))
    ended = await bench.ended("a")
    assert (ended.cause, ended.error) == (Cause.NOT_STARTED, "chdir /nope: no such file or directory")


SURROUNDINGS = """
import json, os, resource
status = dict(l.split(':', 1) for l in open('/proc/self/status'))
mask = os.umask(0)
print(json.dumps({
    'pid': os.getpid(), 'parent': os.getppid(), 'session': os.getsid(0), 'uid': os.getuid(), 'gid': os.getgid(),
    'processes': sorted(int(n) for n in os.listdir('/proc') if n.isdecimal()), 'mask': mask,
    'core': resource.getrlimit(resource.RLIMIT_CORE), 'cwd': os.getcwd(),
    'fds': sorted(map(int, os.listdir('/proc/self/fd')))[:-1],
    'new_privileges': status['NoNewPrivs'].strip(), 'blocked': status['SigBlk'].strip(),
    'ours': sorted(n for n in os.environ if n.startswith('HOSTLER_')),
}))
"""


async def test_a_program_sees_its_own_processes_and_nothing_of_ours(bench: Bench, runner: Runner) -> None:
    """A namespace with its own /proc, a session of its own, no core files, no descriptors, no new privileges."""
    runner.start(bench.order("a", python(SURROUNDINGS)))

    ended = await bench.ended("a")

    seen = json.loads(streams(whole_ledger(runner, ended.key))[0])
    assert seen == {
        "pid": 2,
        "parent": 1,
        "session": 2,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "processes": [1, 2],
        "mask": 0o077,
        "core": [0, 0],
        "cwd": str(bench.place),
        "fds": [0, 1, 2],
        "new_privileges": "1",
        "blocked": "0000000000000000",
        "ours": ["HOSTLER_ATTEMPT", "HOSTLER_JOB"],
    }


async def test_its_mounts_end_with_it(bench: Bench, runner: Runner) -> None:
    """What it mounts is nobody else's, and the host's table of mounts is as before."""
    (bench.place / "inside").mkdir()
    runner.start(bench.order("a", sh("mount -t tmpfs none inside; echo up > up; sleep 60")))
    await bench.appears("up")
    runner.stop(bench.key("a"), grace_s=0, cause=Cause.STOP)
    await bench.ended("a")
    assert not any("/inside" in line for line in scan.mounts())
    (bench.place / "inside").rmdir()


async def test_sigterm_reaches_the_program_and_its_children_but_not_the_init(bench: Bench, runner: Runner) -> None:
    """The program acts on it and its code is told; the init, which would end everything, is not among them."""
    code = "trap 'exit 3' TERM; sh -c 'echo up > up; exec sleep 60' & while :; do sleep 0.02; done"
    runner.start(bench.order("a", sh(code)))
    await bench.appears("up")
    runner.stop(bench.key("a"), grace_s=10, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code) == (Cause.STOP, 3)
    assert {each.signal for each in ended.receipt.signals} <= {"SIGTERM", "SIGCONT"}
    assert hardened.INIT_NAME not in {each.name for each in ended.receipt.ended}


async def test_a_kill_tells_what_was_used_and_how_it_was_proved(bench: Bench, runner: Runner) -> None:
    """The init kills, waits for each, and passes on their processor time and memory."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "x = b'x' * 80_000_000\n"
        "if os.fork() == 0:\n    while True: time.sleep(1)\n"
        "while time.process_time() < 0.3: pass\n"
        "open('up', 'w').write('up\\n')\n"
        "time.sleep(60)\n"
    )
    runner.start(bench.order("a", python(code)))
    await bench.appears("up")
    runner.stop(bench.key("a"), grace_s=0, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert (ended.cause, ended.signal) == (Cause.STOP, "SIGKILL")
    assert ended.usage.cpu_user_s + ended.usage.cpu_system_s > 0.25
    assert ended.usage.memory_bytes_max > 80_000_000
    assert ended.usage.processes == 2
    assert ended.receipt.verified_by in ("namespace+cgroup", "namespace")
    assert ended.receipt.survivors == ()


async def test_an_init_that_does_not_act_is_killed(bench: Bench, runner: Runner) -> None:
    """It was stopped from outside: the kernel ends its namespace with it, and the receipt is the same."""
    runner.start(bench.order("a", sh("trap '' TERM; sleep 60 & echo up > up; wait; sleep 60")))
    await bench.appears("up")
    await started(bench, "a")
    os.kill(init_of(bench, "a"), signal.SIGSTOP)
    runner.stop(bench.key("a"), grace_s=0, cause=Cause.STOP)

    ended = await bench.ended("a")

    assert (ended.cause, ended.signal) == (Cause.STOP, "SIGKILL")
    assert ended.receipt.verified_by.startswith("namespace")
    assert bench.living() == []


async def test_a_foreign_end_of_the_init_is_told_as_a_foreign_signal(bench: Bench, runner: Runner) -> None:
    """Somebody kills what we put between: the program dies of it, and the cause is not ours."""
    runner.start(bench.order("a", sh("echo up > up; sleep 60")))
    await bench.appears("up")
    await started(bench, "a")
    os.kill(init_of(bench, "a"), signal.SIGKILL)

    ended = await bench.ended("a")

    assert (ended.cause, ended.signal) == (Cause.SIGNAL, "SIGKILL")


NAPS = f"613.{os.getpid()}"  # how long the escaped one sleeps: it is found by that, and nobody else's is
ESCAPED = f"""
import os, time
for root in [l.split()[4] for l in open('/proc/self/mountinfo') if ' - cgroup' in l]:
    try: open(root + '/cgroup.procs', 'w').write('0')
    except OSError: pass
if os.fork(): os._exit(0)
os.setsid()
os.execve('/bin/sleep', ['sleep', '{NAPS}'], {{}})
"""


def sleepers() -> list[int]:
    """Return the processes that run what ESCAPED leaves behind."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if name.isdecimal() and file.read() == f"sleep\0{NAPS}\0".encode():
                    found.append(int(name))
        except OSError:
            continue
    return found


async def test_nothing_outlives_a_killed_shim(bench: Bench, runner: Runner) -> None:
    """Not even what left its cgroup, its session and its environment, which no search could find."""
    runner.start(bench.order("a", (*python(ESCAPED),), leftovers_wait=True))
    await eventually(sleepers, "the program to hide")
    (hidden,) = sleepers()
    stat = read_stat(hidden)
    assert stat is not None
    init = read_stat(stat.parent)
    assert init is not None

    os.kill(init.parent, signal.SIGKILL)

    await eventually(lambda: not sleepers(), "the namespace to end")
    assert (await bench.ended("a")).cause is Cause.SUPERVISOR_DIED


async def test_a_signal_of_a_user_reaches_the_group_of_the_program(bench: Bench, runner: Runner) -> None:
    """Through the init, which knows whether the group's number is still the program's."""
    code = "trap 'echo got; exit 5' USR1; echo up > up; while :; do sleep 0.02; done"
    runner.start(bench.order("a", sh(code)))
    await bench.appears("up")
    await started(bench, "a")
    runner.signal(bench.key("a"), "SIGUSR1")

    ended = await bench.ended("a")

    assert (ended.cause, ended.exit_code) == (Cause.EXIT, 5)
    assert streams(whole_ledger(runner, ended.key))[0] == b"got\n"


async def test_standard_input_is_fed_and_read_from_a_file(bench: Bench, runner: Runner) -> None:
    """As on the warm path: a pipe with an end, or a file."""
    (bench.place / "in").write_text("from a file")
    runner.start(bench.order("file", sh("cat"), stdin_path=str(bench.place / "in")))
    ended = await bench.ended("file")
    assert streams(whole_ledger(runner, ended.key))[0] == b"from a file"

    runner.start(bench.order("pipe", sh("cat"), stdin=True))
    key = bench.key("pipe")
    await eventually(lambda: runner.feed(key, 0, b"from a pipe", eof=True), "the shim to take input")
    await eventually(lambda: any(isinstance(e, Fed) and e.key == key for e in bench.events), "the input to be taken")
    ended = await bench.ended("pipe")
    assert streams(whole_ledger(runner, ended.key))[0] == b"from a pipe"


async def test_the_time_limit_and_the_next_program_in_the_same_shim(bench: Bench, runner: Runner) -> None:
    """A namespace is for one attempt; the shim is used again."""
    runner.start(bench.order("a", sh("sleep 60"), timeout_s=0.1, grace_s=0.1))
    assert (await bench.ended("a")).cause is Cause.TIMEOUT
    for name, path in (("b", ""), ("c", "warm"), ("d", "hardened")):
        runner.start(bench.order(name, sh("exit 9"), start_path=path))
        ended = await bench.ended(name)
        assert (ended.exit_code, ended.segment) == (9, bench.ends("a")[0].segment)


async def test_a_hardened_program_is_adopted_by_the_next_agent(bench: Bench) -> None:
    """The agent is killed; the program runs on below its shim and init, and its end is known."""
    first = await bench.runner(start_path="hardened").__aenter__()
    first.start(bench.order("a", sh("echo up > up; while [ ! -e go ]; do sleep 0.02; done; exit 6")))
    await bench.appears("up")
    await crash(first)

    async with bench.runner() as second:
        fates = await recover(second, [bench.key("a")])
        assert fates[bench.key("a")].fate is Fate.RUNNING
        (bench.place / "go").touch()
        assert (await bench.ended("a")).exit_code == 6
        second.forget([bench.key("a")])
        await bench.end_all(second)


async def test_samples_leave_the_init_out(bench: Bench, runner: Runner) -> None:
    """What is told of a running attempt is the program's."""
    runner.start(bench.order("a", sh("sleep 60 & echo up > up; wait")))
    await bench.appears("up")
    usage = await eventually(lambda: runner.sample().get(bench.key("a")), "a sample")
    assert usage.processes == 2


ROOT = str(Path(hardened.__file__).parent.parent)
AS_NOBODY = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from worker_agent import hardened
from worker_agent.attempts import Order
from worker_agent.process_tree import Reaped, SpawnFailed
if os.geteuid() == 0:
    os.setgroups(()); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is ours again
code = 'echo $$ $(id -u) $(id -g); sleep 600 & grep -c CapEff:.0000000000000000 /proc/self/status; kill -TERM $$'
null, home = os.open('/dev/null', os.O_RDWR), os.open('/', os.O_PATH)
try:
    made = hardened.start(Order('k.0.1', ('/bin/sh', '-c', code)), {b'PATH': b'/usr/bin:/bin'}, home,
                          stdin=null, stdout=1, stderr=2)
except (OSError, SpawnFailed) as error:
    print('refused:', error)
    sys.exit(0)
while not made.left: made.read()
made.end_all()
used = made.ended(Reaped(*os.wait4(made.init, 0)))
print(os.getuid(), made.status, used.processes)
"""


async def test_an_ordinary_user_has_it_through_a_user_namespace() -> None:
    """The same containment for nobody, or a clear refusal where the host allows no user namespaces."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", AS_NOBODY, ROOT, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    lines = said.decode().splitlines()
    uid = os.getuid() or 65534
    if lines[0].startswith("refused:"):
        assert "namespace" in lines[0]
        return
    gid = os.getgid() if os.getuid() else 65534
    assert lines == [f"2 {uid} {gid}", "1", f"{uid} {int(signal.SIGTERM)} 2"]


async def test_the_trial_at_the_start_says_whether_it_works() -> None:
    """Root, as here in tests of namespaces, may; whoever may not is told why."""
    refusal = await hardened_refusal()
    assert refusal == "" or "namespace" in refusal
    if os.geteuid() == 0:
        assert refusal == ""


SCRIPT = """
import os
def main(ctx, params):
    with open(os.path.join(ctx.output_dir, 'pids'), 'w') as file:
        file.write(' '.join(sorted(n for n in os.listdir('/proc') if n.isdecimal())))
    return {'pid': os.getpid(), 'params': params}
"""


async def test_a_worker_offers_it_and_takes_it_from_its_setting(bench: Bench, coordinator: FakeCoordinator) -> None:
    """A Python script in a workspace that says nothing runs hardened; one that says warm does not."""
    with a_program(bench.place, coordinator, start_path="hardened"):
        await eventually(lambda: coordinator.hellos, "the worker to connect", 30.0)
        assert "hardened" in coordinator.hellos[-1].abilities
        pids = {}
        for path in ("", "warm"):
            key = bench.key(f"script{path}")
            files = (
                File(path="script/s.py", content=SCRIPT.encode()),
                File(path="params.json", content=b"7"),
            )
            script = PythonScript(path="script/s.py", entrypoint="main")
            coordinator.start(key, Work(python=script, files=files, workspace=True, start_path=path))
            report = await coordinator.over(key)
            assert report.end.exit_code == 0, coordinator.log(key)
            result = json.loads(report.end.result)
            assert result["params"] == 7
            pids[path] = result["pid"], coordinator.output(report, "pids")
    assert pids[""] == (2, b"1 2")
    assert pids["warm"][0] > 2


async def test_a_limit_of_processes_counts_the_program_and_not_the_init(bench: Bench, runner: Runner) -> None:
    """Three may run: the shell and two more."""
    # The limit is exact once its shim has stepped out.
    code = "sleep 0.5; sleep 60 & sleep 60 & echo two; sleep 60 & echo three"
    runner.start(bench.order("a", sh(code), limits=(0, 0.0, 3)))
    ended = await bench.ended("a")
    out, err, _ = streams(whole_ledger(runner, ended.key))
    assert out == b"two\n"
    assert b"fork" in err.lower()


async def test_waiting_for_what_cannot_be_killed_costs_the_shim_no_time(bench: Bench, runner: Runner) -> None:
    """The init is dead and its pipe at its end, while the kernel waits for a process of its namespace."""
    runner.start(bench.order("a", sh("exec sleep 60")))
    running = await started(bench, "a")
    init = psutil.Process(init_of(bench, "a"))
    shim = psutil.Process(init.ppid())
    freezer = Freezer(mount_of_freezers() / f"hz-{bench.prefix}")
    try:
        freezer.freeze([running.pid])
        init.kill()
        await eventually(lambda: not init.is_running() or not init.cmdline(), "the init to have died")
        before = sum(shim.cpu_times()[:2])
        await asyncio.sleep(1.0)  # what is measured is how little it does in a second
        used_s = sum(shim.cpu_times()[:2]) - before
    finally:
        freezer.thaw()
    ended = await bench.ended("a")
    freezer.remove()

    assert (ended.cause, ended.signal) == (Cause.SIGNAL, "SIGKILL")
    assert used_s < 0.3
