"""`hostler run -- CMD` in the place of CMD: small shell programs give the same bytes and codes either way."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.whole_cluster import HOSTLER, Ran, Up, cluster_up, finish

pytestmark = pytest.mark.ci
AT_ONCE = 4
BIG = bytes(range(256)) * 4096


class Program(NamedTuple):
    """A shell program, and what is its standard input."""

    script: str
    pipe: bytes | None = None
    file: bytes | None = None
    closed: bool = False  # True: there is no standard input at all; otherwise, without the two, it is empty
    shell: str = "sh"


PROGRAMS: Mapping[str, Program] = {
    # exit codes
    "nothing": Program(":"),
    "exit_1": Program("exit 1"),
    "exit_255": Program("echo before; exit 255"),
    "exit_of_the_last": Program("true; false; (exit 42)"),
    "not_found": Program("no-such-program-here"),
    "not_executable": Program("/etc/passwd"),
    "syntax_error": Program("if then"),
    "unset_with_u": Program("set -eu; echo $nothing_is_called_so; echo never"),
    "stop_at_the_first": Program("set -e; echo one; false; echo two"),
    "pipefail": Program("set -o pipefail; false | true", shell="bash"),
    # streams
    "both_streams": Program("for i in 1 2 3; do echo out $i; echo err $i >&2; done; exit 3"),
    "only_stderr": Program("echo wrong >&2; exit 2"),
    "no_line_end": Program("printf 'no end'; printf 'nor here' >&2"),
    "stderr_into_stdout": Program("exec 2>&1; echo out; echo err >&2; ls /no/such/place"),
    "stdout_closed": Program("exec >&-; echo lost; echo said >&2"),
    "binary": Program("printf '\\000\\001\\377\\200\\n\\r\\033[0m'; printf '\\377\\376' >&2"),
    "every_byte": Program('i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %03o $i)"; i=$((i+1)); done'),
    "unicode": Program("echo 'žluťoučký kůň 🐎 你好'; printf '%s' 'é' | wc -c"),
    "much_output": Program("seq 200000"),
    "much_on_both": Program("seq 30000 & seq 30000 >&2; wait"),
    "zeros": Program("head -c 3000000 /dev/zero"),
    "long_line": Program("head -c 200000 /dev/zero | tr '\\0' x"),
    # standard input
    "cat_a_pipe": Program("cat", pipe=b"one\ntwo\nno end"),
    "cat_a_file": Program("cat", file=b"of a file\n"),
    "cat_nothing": Program("cat; echo $?"),
    "cat_binary": Program("cat", pipe=BIG),
    "sum_of_a_big_pipe": Program("sha256sum", pipe=BIG * 4),
    "sum_of_a_big_file": Program("sha256sum", file=BIG * 4),
    "count": Program("wc -lwc", pipe=b"a b\nc\n"),
    "read_loop": Program('while read -r a b; do echo "<$b|$a>"; done; echo end', pipe=b"1 x y\n2 z\n\n3\nrest"),
    "read_once": Program('read line; echo "$line"', pipe=b"first\nsecond\n"),
    "read_and_cat": Program('IFS= read -r line; echo "$line"; cat', pipe=b"  first \nsecond\n\\third\n"),
    "sort": Program("sort -rn | head -3", pipe=b"".join(b"%d\n" % n for n in range(5000))),
    "head_leaves_early": Program("head -c 5", pipe=BIG),
    "input_not_read": Program("echo done", pipe=BIG),
    "input_closed_by_it": Program("exec <&-; echo on", pipe=BIG),
    "empty_pipe": Program("cat; echo $?", pipe=b""),
    "a_program_from_input": Program("sh -s a b", pipe=b"echo $# $2; exit 6\n"),
    "no_input_at_all": Program("echo fine", closed=True),
    "here_document": Program("cat <<E; cat <<'F'\n$MARK $((1+2))\nE\n$MARK\nF\n"),
    # pipes, and who leaves first
    "yes_head": Program("yes | head -n 3"),
    "pipe_of_five": Program("seq 1000 | grep 7 | sort -r | tail -n 2 | tr 7 x"),
    "sigpipe_inside": Program("(trap '' PIPE; yes 2>/dev/null; echo $? >&2) | head -n 1"),
    "tee": Program("echo x | tee /dev/stderr | cat -A"),
    # where and as what
    "cwd": Program("pwd; ls; cat here"),
    "environment": Program("echo \"$MARK $HOME $LANG\"; env -i sh -c 'echo ${MARK-none}'"),
    "umask": Program("umask; umask 027; umask"),
    "limits": Program("ulimit -c 0; ulimit -c; ulimit -n 77; ulimit -n"),
    "who": Program("id -u; id -g"),
    "arguments": Program("set -- 'a b' '' '*' \"$(printf 'x\\ny')\"; for i; do echo \"[$i]\"; done; echo $#"),
    "cannot_enter": Program("cd /no/such/place || echo stays; pwd"),
    # processes and signals
    "subshell": Program("x=1; (x=2; exit 3); echo $? $x"),
    "background_and_wait": Program("(sleep 0.1; exit 9) & wait $!; echo $?"),
    "two_at_once": Program("sleep 0.1 & a=$!; (exit 4) & b=$!; wait $a; echo $?; wait $b; echo $?"),
    "kill_a_child": Program("sleep 100 & kill $!; wait $!; echo $?"),
    "kill_9_a_child": Program("sleep 100 & kill -9 $!; wait $!; echo $?"),
    "killed_by_term": Program("kill -TERM $$"),
    "killed_by_kill": Program("echo before; kill -KILL $$; echo after"),
    "killed_by_segv": Program("ulimit -c 0; kill -SEGV $$"),
    "killed_by_int": Program("kill -INT $$; echo after"),
    "trap_on_exit": Program("trap 'echo bye' EXIT; exit 5"),
    "trap_term": Program("trap 'echo caught; exit 7' TERM; kill -TERM $$; sleep 1"),
    "trap_ignored": Program("trap '' INT TERM HUP; kill -TERM $$; kill -INT $$; kill -HUP $$; echo still here"),
    "default_signals": Program("grep -i sigign /proc/self/status | tail -c 8"),
    "time_out": Program("timeout 0.1 sleep 100; echo $?"),
    "job_control": Program("set -m; sleep 0.1 & fg >/dev/null; echo $?; (exit 8) & wait $!; echo $?", shell="bash"),
    "process_substitution": Program("diff <(seq 3) <(seq 4); echo ${PIPESTATUS[@]}", shell="bash"),
    "no_terminal": Program("test -t 0 || test -t 1 || test -t 2 || echo none; tty; exec 3</dev/tty"),
    "exec": Program("echo before; exec sh -c 'echo after; exit 11'"),
    "descriptors": Program("exec 5>file; echo kept >&5; cat file; ls /proc/self/fd | wc -l"),
}


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """One cluster for all of them."""
    with cluster_up() as made:
        yield made


class Ahead:
    """Runs each program by itself and as a job, a few ahead of the one that is asked for."""

    def __init__(self, up: Up, places: pytest.TempPathFactory) -> None:
        self._up, self._places = up, places
        self._names = list(PROGRAMS)
        self._begun: dict[str, Future[tuple[Ran, Ran]]] = {}
        self.pool = ThreadPoolExecutor(AT_ONCE)

    def ran(self, name: str) -> tuple[Ran, Ran]:
        """How a program ended by itself and as a job."""
        place = self._names.index(name)
        for each in self._names[place : place + AT_ONCE]:
            if each not in self._begun:
                own = self._places.mktemp(each)
                self._begun[each] = self.pool.submit(_both_ways, self._up, PROGRAMS[each], own)
        return self._begun[name].result()


@pytest.fixture(scope="module")
def ahead(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ahead]:
    """How the programs ended."""
    made = Ahead(up, tmp_path_factory)
    yield made
    made.pool.shutdown(cancel_futures=True)


def _both_ways(up: Up, program: Program, place: Path) -> tuple[Ran, Ran]:
    # One path for both, as some say where they are.
    return _run(up, program, place, ()), _run(up, program, place, (*HOSTLER, "run", "--"))


def _run(up: Up, program: Program, place: Path, before: tuple[str, ...]) -> Ran:
    for name in place.iterdir():
        name.unlink()
    (place / "here").write_text("it is here\n")
    argv = [*before, program.shell, "-c", program.script]
    if program.closed:
        argv = ["sh", "-c", 'exec "$@" <&-', "sh", *argv]
    if program.file is not None:
        source = place.with_suffix(".input")
        source.write_bytes(program.file)
        with source.open("rb") as file:
            return finish(up.start(argv, cwd=place, stdin=file.fileno()))
    return finish(
        up.start(argv, cwd=place, stdin=subprocess.DEVNULL if program.pipe is None else subprocess.PIPE), program.pipe
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_the_same_either_way(name: str, ahead: Ahead) -> None:
    """Both outputs byte for byte, each by itself, and the exit status."""
    directly, as_a_job = ahead.ran(name)

    assert as_a_job == directly


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
@pytest.mark.parametrize("code", ["exit 5", "echo later; trap - {name}; kill -{name} $$"])
def test_a_signal_does_the_same_either_way(name: str, code: str, up: Up, tmp_path: Path) -> None:
    """Sent to the command, it is the program's: caught, or its end."""
    # In the background, where the keys of a terminal do not reach it, and with other streams, as it may outlive us.
    # It ignores the keys' signals from its beginning: a shell has it do so only once it runs, perhaps after they came.
    script = "ulimit -c 0; trap '' INT QUIT; sleep 60 >/dev/null 2>&1 & p=$!; trap - INT QUIT; "
    script += f"trap 'echo caught; kill $p; {code.format(name=name)}' {name}; "
    script += "echo up; while :; do wait $p; done"
    found = []
    for before in ((), (*HOSTLER, "run", "--")):
        process = up.start([*before, "sh", "-c", script], cwd=tmp_path, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        kill = os.killpg if name in ("INT", "QUIT") else os.kill  # as the keys of a terminal do, or as `kill`
        kill(process.pid, signal.Signals[f"SIG{name}"])
        found.append(finish(process))

    assert found[0] == found[1]
    assert found[0].out.startswith(b"caught\n")


def test_who_writes_to_a_program_that_reads_no_more_is_told(up: Up, tmp_path: Path) -> None:
    """`yes | CMD` ends when CMD has closed its standard input, also while CMD itself goes on."""
    script = "head -n 1; exec <&-; echo closed >&2; sleep 1; echo over"
    for before in ("", f"{' '.join(HOSTLER)} run --"):
        line = f"(yes; echo $? >&2) | {before} sh -c '{script}'"
        process = up.start(["bash", "-c", line], cwd=tmp_path, stdin=subprocess.DEVNULL)
        code, out, err = finish(process)
        assert (code, out, sorted(err.split())) == (0, b"y\nover\n", [b"141", b"closed"]), before or "directly"
