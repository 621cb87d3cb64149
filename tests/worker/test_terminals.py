"""Programs in terminals of their own, over real shims: the size, the keys, the last output, and the end of it all."""

import os
import time

import pytest

from tests.worker.real_runner import Bench, eventually, sh, streams, whole_ledger
from worker_agent.attempt_events import Fed, Started
from worker_agent.attempts import Cause
from worker_agent.process_tree import read_stat
from worker_agent.recovery import recover
from worker_agent.runner import Runner

PATHS = pytest.mark.parametrize("start_path", ["warm", "hardened"])


async def typed(bench: Bench, runner: Runner, name: str, text: bytes, at: int = 0, *, eof: bool = False) -> None:
    """Type at a program, and return when its terminal has taken it."""
    key = bench.key(name)
    await eventually(lambda: runner.feed(key, at, text, eof=eof), "the shim to take input")
    end = at + len(text)
    await eventually(
        lambda: any(isinstance(e, Fed) and e.key == key and e.offset == end and e.ended >= eof for e in bench.events),
        "the input to be taken",
    )


def shown(bench: Bench, runner: Runner, name: str) -> bytes:
    """What a program has written so far."""
    return streams(whole_ledger(runner, bench.key(name)))[0]


async def shows(bench: Bench, runner: Runner, name: str, text: bytes) -> None:
    """Wait until a program has written something."""
    await eventually(lambda: text in shown(bench, runner, name), f"{text!r} from {name}")


@PATHS
async def test_the_terminal_is_all_three_streams_and_the_controlling_one(
    bench: Bench, runner: Runner, start_path: str
) -> None:
    """`/dev/tty` opens, the foreground group is the program's, what goes to standard error is standard output."""
    code = "tty <&1; tty <&2; stty size; echo on tty > /dev/tty; echo err >&2; test -t 0 && ps -o tpgid=,sid= -p $$"
    runner.start(bench.order("a", sh(code), terminal=(33, 77), start_path=start_path))

    ended = await bench.ended("a")

    assert ended.exit_code == 0
    lines = shown(bench, runner, "a").decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/") and lines[0] == lines[1]
    assert lines[2:5] == ["33 77", "on tty", "err"]
    group, session = lines[5].split()
    assert group == session and int(session) > 0
    assert (ended.out_bytes, ended.err_bytes) == (len(shown(bench, runner, "a")), 0)


async def test_what_a_program_writes_last_is_never_lost(bench: Bench, runner: Runner) -> None:
    """The kernel hands it over a moment after the write: many programs that end at once all keep it."""
    for number in range(60):
        runner.start(bench.order(f"n{number}", sh(f"echo {number}; exec printf end"), terminal=(0, 0)))
    for number in range(60):
        await bench.ended(f"n{number}")
        assert shown(bench, runner, f"n{number}") == f"{number}\r\nend".encode()


@PATHS
async def test_keys_are_typed_and_the_end_is_one(bench: Bench, runner: Runner, start_path: str) -> None:
    """Bytes come as from a keyboard, with echo; the end of the input is the end-of-file character."""
    runner.start(bench.order("a", sh("cat"), stdin=True, terminal=(0, 0), start_path=start_path))

    await typed(bench, runner, "a", b"hello\n")
    await shows(bench, runner, "a", b"hello\r\nhello\r\n")
    await typed(bench, runner, "a", b"", 6, eof=True)

    assert (await bench.ended("a")).exit_code == 0


@PATHS
async def test_ctrl_c_interrupts_what_is_in_the_foreground(bench: Bench, runner: Runner, start_path: str) -> None:
    """The byte goes through the terminal; the shell, in whose job control it is, goes on."""
    argv = ("bash", "--norc", "--noprofile", "-i")
    env = {"PS1": "ready$ ", "TERM": "dumb"}
    runner.start(bench.order("a", argv, stdin=True, terminal=(0, 0), start_path=start_path, env=env))
    await shows(bench, runner, "a", b"ready$ ")

    await typed(bench, runner, "a", b"sleep 100\n")
    await eventually(lambda: len(bench.living()) > 1, "sleep to run")
    await typed(bench, runner, "a", b"\x03", 10)
    await shows(bench, runner, "a", b"^C\r\n")
    await typed(bench, runner, "a", b"echo code $?\n", 11)
    await shows(bench, runner, "a", b"code 130\r\n")
    await typed(bench, runner, "a", b"exit 7\n", 24)

    assert (await bench.ended("a")).exit_code == 7


@PATHS
async def test_another_size_is_told(bench: Bench, runner: Runner, start_path: str) -> None:
    """The program gets SIGWINCH and sees the new size."""
    code = "trap 'stty size; exit 3' WINCH; echo up; while :; do sleep 0.02; done"
    runner.start(bench.order("a", sh(code), stdin=True, terminal=(10, 20), start_path=start_path))
    await shows(bench, runner, "a", b"up")

    runner.feed(bench.key("a"), 0, b"", eof=False, size=(44, 88))

    assert (await bench.ended("a")).exit_code == 3
    assert b"44 88\r\n" in shown(bench, runner, "a")


async def test_a_stop_ends_all_of_an_interactive_shell(bench: Bench, runner: Runner) -> None:
    """Jobs in groups of their own, in the background, stopped ones and those that ignore a hang-up: nothing is left."""
    argv = ("bash", "--norc", "--noprofile", "-i")
    runner.start(bench.order("a", argv, stdin=True, terminal=(0, 0), env={"PS1": "$ "}))
    text = b"nohup sleep 100 >/dev/null & (trap '' HUP; sleep 101) & sleep 102 & sleep 103\n"
    await typed(bench, runner, "a", text)
    await eventually(lambda: len(bench.living()) >= 5, "all to run")
    await typed(bench, runner, "a", b"\x1a", len(text))

    runner.stop(bench.key("a"), grace_s=0.2, cause=Cause.STOP)

    ended = await bench.ended("a")
    assert ended.cause is Cause.STOP
    assert ended.receipt.verified_by and not bench.living()


async def test_a_program_that_reads_nothing_does_not_hold_its_shim_up(bench: Bench, runner: Runner) -> None:
    """A megabyte is typed at it; its output still comes, and it can be stopped."""
    runner.start(
        bench.order("a", sh("stty -echo; while :; do echo alive; sleep 0.05; done"), stdin=True, terminal=(0, 0))
    )
    await shows(bench, runner, "a", b"alive")
    key = bench.key("a")
    for number in range(4):
        runner.feed(key, number << 18, b"x" * (1 << 18), eof=False)

    def has_all() -> bool:
        return any(isinstance(e, Fed) and e.received == 1 << 20 for e in bench.events)

    await eventually(has_all, "the shim to have it")
    before = len(shown(bench, runner, "a"))
    await eventually(lambda: len(shown(bench, runner, "a")) > before, "more output")
    runner.stop(key, grace_s=0.0, cause=Cause.STOP)
    assert (await bench.ended("a")).cause is Cause.STOP


async def test_a_program_that_hangs_its_terminal_up_costs_nothing(bench: Bench, runner: Runner) -> None:
    """Root may do that; our side is at its end from then on, and must not keep the shim busy."""
    hang_up = "import ctypes, os, signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    hang_up += "ctypes.CDLL(None).vhangup(); time.sleep(60)"
    runner.start(bench.order("a", ("python3", "-I", "-S", "-c", hang_up), terminal=(0, 0)))
    started = await eventually(lambda: next((e for e in bench.events if isinstance(e, Started)), None), "start")
    stat = read_stat(started.pid)
    assert stat is not None
    before, until = _cpu_ticks(stat.parent), time.monotonic() + 1.0
    await eventually(lambda: time.monotonic() > until, "a second to pass")

    assert _cpu_ticks(stat.parent) - before < os.sysconf("SC_CLK_TCK") // 4
    runner.stop(bench.key("a"), grace_s=0.0, cause=Cause.STOP)
    assert (await bench.ended("a")).cause is Cause.STOP


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_a_terminal_outlives_the_agent(bench: Bench) -> None:
    """The shim holds it: the next agent goes on typing where the first one stopped, and reads everything."""
    async with bench.runner() as first:
        first.start(bench.order("a", sh("read one; read two; echo $one $two; stty size"), stdin=True, terminal=(5, 6)))
        await typed(bench, first, "a", b"early\nla")
    bench.events.clear()
    async with bench.runner() as second:
        await recover(second, [bench.key("a")])
        second.feed(bench.key("a"), 0, b"", eof=False)
        (fed,) = await eventually(lambda: [e for e in bench.events if isinstance(e, Fed)], "how far it is")
        assert (fed.offset, fed.received, fed.ended, fed.closed) == (8, 8, False, False)
        second.feed(bench.key("a"), 0, b"early\nlate\n", eof=False)
        assert (await bench.ended("a")).exit_code == 0
        assert shown(bench, second, "a").endswith(b"early late\r\n5 6\r\n")
        await bench.end_all(second)
