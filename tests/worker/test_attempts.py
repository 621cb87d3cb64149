"""One attempt after another through real shims: what comes out, how it ended, and what was said about it."""

import os
import signal
from pathlib import Path

import pytest

from hostler import frames
from tests.worker.real_runner import Bench, eventually, python, sh, streams, whole_ledger, zombie_children_of
from worker_agent.attempt_events import Fed, Output, Started
from worker_agent.attempts import Cause
from worker_agent.process_tree import descendants, read_stat
from worker_agent.runner import ProcessCapReached, Runner


async def test_exit_code_and_both_streams_are_exact(bench: Bench, runner: Runner) -> None:
    """The exit is the program's own, each stream is byte-exact, and the proof is the wait of a subreaper."""
    runner.start(bench.order("a", sh("printf 'one\\ntwo'; printf 'bad\\0' >&2; exit 7")))

    ended = await bench.ended("a")

    assert (ended.exit_code, ended.signal, ended.cause) == (7, "", Cause.EXIT)
    assert (ended.out_bytes, ended.err_bytes, ended.dropped_bytes) == (7, 4, 0)
    assert streams(whole_ledger(runner, ended.key)) == (b"one\ntwo", b"bad\0", [])
    assert ended.ledger_bytes == len(whole_ledger(runner, ended.key))
    assert (ended.receipt.verified_by, ended.receipt.survivors, ended.receipt.signals) == ("wait", (), ())
    assert ended.evidence == "the program exited with code 7 by itself"


async def test_a_short_attempt_sends_nothing_but_its_end(bench: Bench, runner: Runner) -> None:
    """Programs of a millisecond cost one message each way."""
    runner.start(bench.order("warm-up", ("true",)))
    await bench.ended("warm-up")
    bench.events.clear()

    for number in range(20):
        runner.start(bench.order(f"n{number}", ("/bin/true",)))
        await bench.ended(f"n{number}")

    assert len(bench.events) <= 22  # a stalled machine may make a few of them long enough for `started`
    assert len(list((bench.place / "worker/segments").glob("*.segment"))) == 1


async def test_a_longer_attempt_is_seen_to_start_and_to_write(bench: Bench, runner: Runner) -> None:
    """`Started` names the main process, `Output` a position up to which the ledger can be read at once."""
    runner.start(bench.order("a", sh("echo first; exec sleep 60")))

    output = await eventually(lambda: next((e for e in bench.events if isinstance(e, Output)), None), "output")

    started = next(e for e in bench.events if isinstance(e, Started))
    assert os.readlink(f"/proc/{started.pid}/cwd") == str(bench.place)
    ledger = runner.read(output.key, 0, 1 << 20)
    assert len(ledger) == output.position
    assert streams(ledger)[0] == b"first\n"
    assert runner.read(output.key, output.position, 100) == b""


async def test_the_environment_is_the_workers_with_the_orders_laid_over_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program learns its job and attempt; settings of the worker itself are not for it."""
    monkeypatch.setenv("FROM_WORKER", "yes")
    monkeypatch.setenv("HOSTLER_TOKEN", "secret")
    async with bench.runner() as runner:
        runner.start(bench.order("a", ("env",), env={"ORDERED": "ä b", "HOME": "/other"}))
        ended = await bench.ended("a")
        lines = streams(whole_ledger(runner, ended.key))[0].decode().splitlines()
        await bench.end_all(runner)

    assert {"FROM_WORKER=yes", "ORDERED=ä b", "HOME=/other"} <= set(lines)
    assert f"HOSTLER_ATTEMPT={ended.key}" in lines
    assert f"HOSTLER_JOB={ended.key.split('.')[0]}" in lines
    assert not any("HOSTLER_TOKEN" in line for line in lines)


async def test_standard_input_can_be_a_file(bench: Bench, runner: Runner) -> None:
    """Only to be read; one that cannot be opened is the reason why the program was not started."""
    path = bench.place / "in"
    path.write_text("line\n")
    code = "import os, fcntl; print(os.read(0, 9), fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE)"
    runner.start(bench.order("a", python(code), stdin_path=str(path)))
    runner.start(bench.order("b", ("true",), stdin_path=str(bench.place / "none")))

    ended, failed = await bench.ended("a"), await bench.ended("b")

    assert streams(whole_ledger(runner, ended.key))[0] == b"b'line\\n' 0\n"
    assert (failed.cause, failed.started_at_us) == (Cause.NOT_STARTED, 0)
    assert failed.error == f"stdin {bench.place}/none: no such file or directory"


async def test_a_program_starts_with_nothing_of_ours(bench: Bench, runner: Runner) -> None:
    """Three descriptors, a session of its own, no ignored and no blocked signals."""
    code = (
        "import os; print(sorted(int(x) for x in os.listdir('/proc/self/fd'))[:-1], os.getsid(0) == os.getpid());"
        "lines = [l.split() for l in open('/proc/self/status')];"
        "print([int(l[1], 16) & 0x7fffffff for l in lines if l[0] in ('SigBlk:', 'SigIgn:')])"
    )
    runner.start(bench.order("a", python(code)))

    ended = await bench.ended("a")

    lines = streams(whole_ledger(runner, ended.key))[0].decode().splitlines()
    # Python itself ignores SIGPIPE and SIGXFSZ (bits 12 and 24); signals 32 and 33 are the C library's own.
    assert lines == ["[0, 1, 2] True", f"[0, {1 << 12 | 1 << 24}]"]


async def test_what_the_worker_tells_its_own_parts_is_not_for_jobs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its settings nor what it tells its gRPC; everything else of its environment is."""
    for name in ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_EXPERIMENTS", "HOSTLER_NAME", "GRPC_VERBOSITY"):
        monkeypatch.setenv(name, "0")
    async with bench.runner() as runner:
        runner.start(bench.order("a", sh("env | grep -oE '^(GRPC_ENABLE|GRPC_EXP|GRPC_VERB|HOSTLER_NAME)[^=]*'")))
        ended = await bench.ended("a")
        assert streams(whole_ledger(runner, ended.key))[0] == b"GRPC_VERBOSITY\n"
        await bench.end_all(runner)


@pytest.mark.parametrize(
    ("argv", "options", "error"),
    [
        (("no-such-program",), {}, 'exec: "no-such-program": executable file not found in $PATH'),
        (("./nope",), {}, "fork/exec ./nope: no such file or directory"),
        (("./plain",), {}, "fork/exec ./plain: permission denied"),
        (("./text",), {}, "fork/exec ./text: exec format error"),
        (("plain",), {"env": {"PATH": "."}}, 'exec: "plain": permission denied'),
        (("true",), {"cwd": "/nope"}, "chdir /nope: no such file or directory"),
        (("",), {}, "exec: no command"),
        ((), {}, "exec: no command"),
        (("/bin/true", "x" * 200_000), {}, "fork/exec /bin/true: argument list too long"),
        (("/bin/true", "a\0b"), {}, "fork/exec /bin/true: invalid argument (embedded null byte)"),
    ],
)
async def test_a_program_that_cannot_start_says_why(
    bench: Bench, runner: Runner, argv: tuple[str, ...], options: dict[str, object], error: str
) -> None:
    """Cause, text, and the honest zero as the start time; the shim is of use afterwards."""
    (bench.place / "plain").write_text("#!/bin/sh\n")
    (bench.place / "text").write_text("just words\n")
    (bench.place / "text").chmod(0o755)
    runner.start(bench.order("a", argv, **options))

    ended = await bench.ended("a")

    assert (ended.cause, ended.error, ended.started_at_us) == (Cause.NOT_STARTED, error, 0)
    assert (ended.exit_code, ended.signal) == (None, "")
    runner.start(bench.order("next", ("true",)))
    assert (await bench.ended("next")).exit_code == 0


async def test_a_hundred_megabytes_come_through_unchanged_with_flat_memory(bench: Bench, runner: Runner) -> None:
    """Two streams at full speed; the shim keeps none of it in memory."""
    code = (
        "import os, sys\n"
        "block = bytes(range(256)) * 256\n"
        "for i in range(800):\n"
        "    os.write(1, i.to_bytes(8, 'big') + block[8:]); os.write(2, block)\n"
        "sys.stdin.read()\n"
    )
    runner.start(bench.order("a", python(code), stdin=True))
    started = await eventually(lambda: next((e for e in bench.events if isinstance(e, Started)), None), "start")
    stat = read_stat(started.pid)
    assert stat is not None
    before = _own_memory_kb(stat.parent)
    size = 1600 * (65536 + frames.HEADER_BYTES)
    await eventually(lambda: any(isinstance(e, Output) and e.position >= size for e in bench.events), "100 MB", 60)
    grown = _own_memory_kb(stat.parent) - before
    runner.feed(started.key, 0, b"", eof=True)
    ended = await bench.ended("a")

    assert grown < 8 * 1024
    assert (ended.out_bytes, ended.err_bytes, ended.dropped_bytes) == (800 * 65536, 800 * 65536, 0)
    block = bytes(range(256)) * 256
    out, err = 0, 0
    position = 0
    rest = {frames.OUT: b"", frames.ERR: b""}
    while piece := runner.read(ended.key, position, 1 << 20):
        position += len(piece)
        for frame in frames.iter_frames(piece):
            rest[frame.kind] += frame.payload
        while len(rest[frames.OUT]) >= 65536:
            assert rest[frames.OUT][:65536] == out.to_bytes(8, "big") + block[8:]
            rest[frames.OUT] = rest[frames.OUT][65536:]
            out += 1
        while len(rest[frames.ERR]) >= 65536:
            assert rest[frames.ERR][:65536] == block
            rest[frames.ERR] = rest[frames.ERR][65536:]
            err += 1
    assert (out, err, position) == (800, 800, ended.ledger_bytes)


def _own_memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


async def test_a_cap_keeps_the_first_bytes_and_says_how_many_it_dropped(bench: Bench, runner: Runner) -> None:
    """The program is not disturbed; the ledger ends in a gap with exact counts."""
    code = "head -c 70000 /dev/zero; head -c 50000 /dev/zero >&2; echo done > done"
    runner.start(bench.order("a", sh(code), output_bytes_max=65000))

    ended = await bench.ended("a")

    assert (bench.place / "done").read_text() == "done\n"
    out, err, gaps = streams(whole_ledger(runner, ended.key))
    assert len(out) + len(err) == ended.out_bytes + ended.err_bytes == 65000
    assert gaps == [(70000 - len(out), 50000 - len(err))]
    assert ended.dropped_bytes == 120000 - 65000


async def test_standard_input_is_fed_in_order_and_ends(bench: Bench, runner: Runner) -> None:
    """More than the pipe and the buffer hold: the answers say from where to send again."""
    content = os.urandom(3_000_000)
    runner.start(bench.order("a", sh("sleep 0.1; cat > copy; echo end"), stdin=True))
    await eventually(lambda: any(isinstance(e, Started) for e in bench.events), "start")
    key = bench.key("a")
    consumed = 0
    while consumed < len(content):
        bench.events[:] = [e for e in bench.events if not isinstance(e, Fed)]
        runner.feed(key, consumed, content[consumed : consumed + 600_000], eof=False)

        def taken(before: int = consumed) -> int:
            return max((e.offset for e in bench.events if isinstance(e, Fed) and e.offset > before), default=0)

        consumed = await eventually(taken, "input to be taken")
    runner.feed(key, len(content), b"", eof=True)

    assert (await bench.ended("a")).exit_code == 0
    assert (bench.place / "copy").read_bytes() == content


async def test_without_stdin_a_program_reads_nothing(bench: Bench, runner: Runner) -> None:
    """It is /dev/null, never the worker's own."""
    runner.start(bench.order("a", sh("cat; echo end")))
    assert (await bench.ended("a")).exit_code == 0


@pytest.mark.parametrize("start_path", ["warm", "hardened"])
@pytest.mark.parametrize("alone", [False, True])
async def test_a_signal_can_be_for_the_main_process_alone(
    start_path: str, alone: bool, bench: Bench, runner: Runner
) -> None:
    """As `kill` sends it; by itself it goes to the whole group, as the keys of a terminal do."""
    code = """
import os, signal, time
def caught(*_):
    os.write(1, name)
    if name == b"child ": os._exit(0)
name = b"main "
signal.signal(signal.SIGUSR1, caught)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
child = os.fork()
if not child:
    name = b"child "
    while True: signal.sigwait([signal.SIGUSR1]); caught()
open("up", "w").write("up\\n")
signal.sigwait([signal.SIGUSR1]); caught()
until = time.monotonic() + 0.5
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > until: os.kill(child, signal.SIGKILL)
    time.sleep(0.01)
os._exit(4)
"""
    runner.start(bench.order("a", python(code), start_path=start_path))
    await bench.appears("up")
    await eventually(lambda: any(isinstance(e, Started) for e in bench.events), "start")

    runner.signal(bench.key("a"), "SIGUSR1", alone=alone)

    assert (await bench.ended("a")).exit_code == 4
    lines = streams(whole_ledger(runner, bench.key("a")))[0].split()
    assert sorted(lines) == ([b"main"] if alone else [b"child", b"main"])


async def test_a_signal_reaches_the_group_of_the_main_process(bench: Bench, runner: Runner) -> None:
    """And an end by it says that it was sent on request."""
    runner.start(bench.order("a", sh("echo up > up; exec sleep 60")))
    await bench.appears("up")

    assert runner.signal(bench.key("a"), "SIGINT")

    ended = await bench.ended("a")
    assert (ended.signal, ended.cause) == ("SIGINT", Cause.SIGNAL)
    assert "sent on request" in ended.evidence


async def test_a_foreign_signal_is_told_from_ours(bench: Bench, runner: Runner) -> None:
    """Killed by somebody else: the evidence does not claim to know who."""
    runner.start(bench.order("a", sh("echo up > up; kill -9 $$")))

    ended = await bench.ended("a")

    assert (ended.signal, ended.cause, ended.exit_code) == ("SIGKILL", Cause.SIGNAL, None)
    assert "which we did not send" in ended.evidence


async def test_the_process_cap_refuses_before_anything_is_started(bench: Bench) -> None:
    """And a key that is known is refused too: one start per attempt."""
    async with bench.runner(process_cap=1) as runner:
        runner.start(bench.order("a", ("sleep", "60")))
        with pytest.raises(ProcessCapReached):
            runner.start(bench.order("b", ("true",)))
        with pytest.raises(ValueError, match="known already"):
            runner.start(bench.order("a", ("true",)))
        await bench.end_all(runner)


async def test_surplus_shims_end_and_warm_ones_stay(bench: Bench) -> None:
    """Six at once need six shims; a moment later only the slots are kept."""
    async with bench.runner(slots=2, idle_surplus_s=0.1) as runner:
        for number in range(6):
            runner.start(bench.order(f"n{number}", ("sleep", "0.1")))
        for number in range(6):
            await bench.ended(f"n{number}")
        sockets = bench.place / "run"
        await eventually(lambda: len(list(sockets.glob("*.sock"))) == 2, "the surplus to end")
        runner.forget([bench.key(f"n{number}") for number in range(6)])
        segments = bench.place / "worker/segments"
        await eventually(lambda: len(list(segments.glob("*.segment"))) <= 2, "their segments to go")
        await bench.end_all(runner)


async def test_thousands_of_orphans_leave_no_zombie(bench: Bench, runner: Runner) -> None:
    """A program that abandons its grandchildren: the shim reaps them while the program runs."""
    code = (
        "import os\n"
        "for i in range(100):\n"
        "    if os.fork() == 0:\n"
        "        for j in range(20):\n"
        "            if os.fork() == 0: os._exit(0)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "open('all', 'w').write('all\\n')\n"
        "import time; time.sleep(60)\n"
    )
    runner.start(bench.order("a", python(code)))
    await bench.appears("all")
    started = next(e for e in bench.events if isinstance(e, Started))
    stat = read_stat(started.pid)
    assert stat is not None
    shim = stat.parent

    await eventually(lambda: not zombie_children_of({shim}) and descendants(shim) == [started.pid], "reaping")


async def test_a_running_tree_is_sampled(bench: Bench, runner: Runner) -> None:
    """Memory and processes of the whole tree, the shim not included."""
    runner.start(bench.order("a", sh("sleep 60 & sleep 60 & wait")))
    key = bench.key("a")
    usage = await eventually(lambda: runner.sample().get(key), "the attempt to be old enough")
    assert usage.processes == 3
    assert 0 < usage.memory_bytes_max < 64 * 1024 * 1024


async def test_stop_says_no_for_an_attempt_that_has_ended(bench: Bench, runner: Runner) -> None:
    """The caller then has its end, or never started it."""
    runner.start(bench.order("a", ("true",)))
    await bench.ended("a")
    assert not runner.stop(bench.key("a"), grace_s=1, cause=Cause.STOP)
    assert not runner.signal(bench.key("a"), signal.SIGTERM)
    assert not runner.running()


async def test_a_stop_before_there_is_a_shim_is_an_end_that_never_ran(bench: Bench, runner: Runner) -> None:
    """The first start forks a shim; the stop that comes before it is answered at once."""
    runner.start(bench.order("a", sh("echo ran > ran")))
    runner.stop(bench.key("a"), grace_s=1, cause=Cause.STOP)
    ended = await bench.ended("a")
    assert (ended.cause, ended.started_at_us) == (Cause.STOP, 0)
    runner.start(bench.order("b", ("true",)))
    await bench.ended("b")
    assert not (bench.place / "ran").exists()
