"""Programs at a terminal, directly and through `hostler run --tty`; who leaves a job and comes back."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.whole_cluster import HOSTLER, WITHIN_S, Up, cluster_up, finish
from tests.support.typist import Typist

pytestmark = pytest.mark.ci
TTY = (*HOSTLER, "run", "--tty", "--env", "PS1=ready> ", "--env", "TERM=xterm", "--")
WAYS = pytest.mark.parametrize("before", [(), TTY], ids=["directly", "as_a_job"])
BASH = ("bash", "--norc", "--noprofile", "--noediting", "-i")
DETACH = b"\x10\x11"


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """One cluster for all of them."""
    with cluster_up() as made:
        yield made


def typist(up: Up, *argv: str, rows: int = 24, columns: int = 80, cwd: Path | None = None) -> Typist:
    """Somebody who starts a command."""
    env = {**up.env, "PS1": "ready> ", "TERM": "xterm"}
    return Typist(argv, env=env, rows=rows, columns=columns, cwd=cwd or up.directory)


@WAYS
def test_a_shell(up: Up, before: tuple[str, ...]) -> None:
    """A prompt, a size, a terminal of its own, job control, the keys, and the shell's status."""
    with typist(up, *before, *BASH, rows=31, columns=71) as person:
        person.sees(b"ready> ")
        person.type(b"stty size; tty; echo $((6*7)) $TERM\n")
        shown = person.sees(b"ready> ")
        assert b"31 71\r\n/dev/pts/" in shown and b"42 xterm\r\n" in shown
        person.size(40, 132)
        person.type(b"stty size; stty size\n")
        assert person.sees(b"ready> ").endswith(b"40 132\r\nready> ")
        # What a program prints says that it has the terminal, so that keys reach it and not the shell.
        person.type(b"sh -c 'echo go\"\"es; exec sleep 300'\n")
        person.sees(b"\r\ngoes\r\n")
        person.type(b"\x03")
        person.sees(b"^C\r\nready> ")
        # The next one only reads: a shell that starts programs does so by vfork, and Ctrl-Z in the moment before the
        # exec stops the child alone. Its parent waits in the kernel for the exec, cannot stop, and bash is never told.
        person.type(b'echo $?; sh -c \'trap "echo ag""ain" CONT; echo th""ere; while :; do read x; done\'\n')
        person.sees(b"130\r\nthere\r\n")
        person.type(b"\x1a")
        person.sees(b"Stopped")
        person.sees(b"ready> ")
        person.type(b"fg\n")
        person.sees(b"\nagain\r\n")
        person.type(b"\x03")
        person.sees(b"ready> ")
        person.type(b"exit 23\n")
        assert person.ends() == 23


@WAYS
def test_the_end_of_the_input(up: Up, before: tuple[str, ...]) -> None:
    """Ctrl-D at `cat`, and half a line before it."""
    with typist(up, *before, "sh", "-c", "echo up; cat; echo over") as person:
        person.sees(b"up\r\n")
        person.type(b"line\n")
        person.sees(b"line\r\nline\r\n")
        person.type(b"half\x04")
        person.sees(b"halfhalf")
        person.type(b"\x04")
        person.sees(b"over\r\n")
        assert person.ends() == 0


@WAYS
def test_ctrl_c_ends_a_program(up: Up, before: tuple[str, ...]) -> None:
    """It goes through the terminal; the status is that of the signal."""
    with typist(up, *before, "sh", "-c", "echo up; exec sleep 300") as person:
        person.sees(b"up\r\n")
        person.type(b"\x03")
        assert person.ends() == 130


@WAYS
def test_another_size_is_told_at_once(up: Up, before: tuple[str, ...]) -> None:
    """SIGWINCH, and the new size behind it."""
    code = "trap 'stty size; exit 3' WINCH; echo up; while :; do sleep 0.02; done"
    with typist(up, *before, "sh", "-c", code, rows=10, columns=20) as person:
        person.sees(b"up\r\n")
        person.size(44, 88)
        person.sees(b"44 88\r\n")
        assert person.ends() == 3


@WAYS
def test_python(up: Up, before: tuple[str, ...]) -> None:
    """Its prompt, an answer, an interrupt, and its end."""
    with typist(up, *before, "python3", "-I", "-c", "import code; code.interact(banner='hi', exitmsg='bye')") as person:
        person.sees(b">>> ")
        person.type(b"6 * 7\n")
        person.sees(b"42\r\n>>> ")
        person.type(b"import time; time.sleep(300)\n")
        person.sees(b"sleep(300)\r\n")
        person.type(b"\x03")
        person.sees(b"KeyboardInterrupt")
        person.sees(b">>> ")
        person.type(b"\x04")
        person.sees(b"bye")
        assert person.ends() == 0


@WAYS
def test_an_editor(up: Up, before: tuple[str, ...], tmp_path: Path) -> None:
    """It takes the whole screen, and what was typed is in the file. Not every host has one."""
    if shutil.which("vi") is None:
        return
    with typist(up, *before, "vi", "text.txt", cwd=tmp_path) as person:
        person.sees(b"text.txt")
        person.type(b"ihello from here\x1b:wq\r")
        assert person.ends() == 0
    assert (tmp_path / "text.txt").read_text() == "hello from here\n"


@WAYS
def test_a_pager(up: Up, before: tuple[str, ...]) -> None:
    """A page of the height of the terminal; a key is a command. Not every host has one."""
    if shutil.which("less") is None:
        return
    with typist(up, *before, "sh", "-c", "seq 100 | less", rows=12) as person:
        person.sees(b"11\r\n")
        person.type(b"G")
        person.sees(b"100\r\n")
        person.type(b"q")
        assert person.ends() == 0


def test_who_detaches_comes_back(up: Up) -> None:
    """The job goes on as it was; a second one who comes takes the keys over, and both see its end."""
    with typist(up, *TTY, *BASH) as person:
        person.sees(b"ready> ")
        person.type(b"x=kept\n")
        person.sees(b"ready> ")
        person.type(DETACH)
        said = person.sees(b"attach again with: hostler attach ")
        assert b"\r\nhostler: detached" in said
        assert person.ends() == 0 and person.is_cooked()
        found = re.search(rb"detached from job ([0-9a-f-]{36})", said)
        assert found is not None
    job = found[1].decode()

    with typist(up, *HOSTLER, "attach", job, rows=20, columns=50) as first:
        first.type(b"echo $x; stty size\n")
        first.sees(b"kept\r\n20 50\r\n")
        with typist(up, *HOSTLER, "attach", "--all-output", job, rows=21, columns=51) as second:
            second.sees(b"x=kept")
            said = first.sees(b"takes the\r\n  input back)\r\n")  # broken at its width
            assert b"\r\nhostler: somebody else" in said
            first.type(b"echo not for it\n")
            second.type(b"stty size\n")
            second.sees(b"21 51\r\n")
            assert b"not for it" not in first.sees(b"21 51\r\n")
            second.type(b"exit 9\n")
            assert (first.ends(), second.ends()) == (9, 9)
            assert first.is_cooked() and second.is_cooked()


@pytest.mark.parametrize(("keys", "named"), [(b"\x03", b"Ctrl-C or"), (DETACH, b"Ctrl-P Ctrl-Q leaves it")])
def test_who_only_looks_on_is_told_how_to_leave_and_to_have_the_keys_again(up: Up, keys: bytes, named: bytes) -> None:
    """Nobody gets the keys of that terminal, so Ctrl-C is free to leave it; the job goes on."""
    with typist(up, *TTY, *BASH, columns=250) as owner:
        owner.sees(b"ready> ")
        job = _newest(up)
        with typist(up, *HOSTLER, "attach", job) as other:
            said = owner.sees(b" takes the input back)\r\n")
            assert named in said and f"hostler attach {job} takes".encode() in said
            owner.type(b"not for it" + keys)
            assert b"\r\nhostler: detached from job" in owner.sees(b"attach again with: hostler attach ")
            assert owner.ends() == 0 and owner.is_cooked()
            with typist(up, *HOSTLER, "attach", job) as again:
                other.sees(b"takes the input back)")
                again.type(b"exit 9\n")
                assert (other.ends(), again.ends()) == (9, 9)


def _newest(up: Up) -> str:
    shown = [*HOSTLER, "--json", "show", "last"]
    asked = subprocess.run(shown, env=dict(up.env), capture_output=True, timeout=WITHIN_S, check=True)
    newest: str = json.loads(asked.stdout)["id"]
    return newest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_put_back_by_whatever_ends_us(up: Up, number: signal.Signals) -> None:
    """And nothing of the job is left, as when a window is closed."""
    with typist(up, *TTY, *BASH) as person:
        person.sees(b"ready> ")
        assert not person.is_cooked()
        person.kill(number)
        assert person.ends() == 129
        assert person.is_cooked()


def test_the_terminal_is_put_back_by_the_third_interrupt(up: Up) -> None:
    """It leaves without looking back, but not without that."""
    with typist(up, *TTY, "sh", "-c", "trap '' INT TERM; echo up; sleep 3; sleep 3") as person:
        person.sees(b"up")
        while person.process.poll() is None:  # several at one moment count as one
            person.kill(signal.SIGINT)
            time.sleep(0.05)
        assert person.ends() == 130
        assert person.is_cooked()


def test_a_detached_job_keeps_its_input_open(up: Up) -> None:
    """`run --detach` prints the id and leaves; who attaches is its standard input, and gets its output and status."""
    begun = finish(
        up.start(
            [*HOSTLER, "run", "--detach", "--", "sh", "-c", "cat; exit 6"], cwd=up.directory, stdin=subprocess.PIPE
        )
    )
    job = begun.out.decode().strip()
    assert (begun.code, begun.err, len(job)) == (0, b"", 36)

    answer = finish(up.start([*HOSTLER, "attach", job], cwd=up.directory, stdin=subprocess.PIPE), b"fed later")

    assert answer == (6, b"fed later", b"")
    again = finish(up.start([*HOSTLER, "attach", "--all-output", job], cwd=up.directory, stdin=subprocess.DEVNULL))
    assert again == (6, b"fed later", f"hostler: job {job} is over (failed: exit status 6)\n".encode())


def test_who_attaches_leaves_without_the_job(up: Up) -> None:
    """SIGTERM ends only the attach: the job was there before it."""
    script = "echo up; trap 'exit 8' TERM; while [ ! -e go ]; do sleep 0.02; done; echo over"
    begun = finish(up.start([*HOSTLER, "run", "-d", "--", "sh", "-c", script], cwd=up.directory))
    job = begun.out.decode().strip()
    process = up.start([*HOSTLER, "attach", "--all-output", job], cwd=up.directory, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"

    process.send_signal(signal.SIGTERM)

    assert finish(process).code == 143
    (up.directory / "go").touch()
    waited = subprocess.run([*HOSTLER, "wait", job], env=dict(up.env), capture_output=True, timeout=WITHIN_S)
    assert waited.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--detach", "--private"], b"--private and --detach exclude each other"),
        (["--tty"], b"--tty needs a terminal"),
        (["--tty", "--detach-keys", "ctrl-p,hello"], b"'hello' is no key"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(up: Up, arguments: list[str], said: bytes) -> None:
    """Nothing was started, and the sentence says why."""
    answer = finish(up.start([*HOSTLER, "run", *arguments, "--", "true"], cwd=up.directory, stdin=subprocess.DEVNULL))

    assert answer.code in (2, 125) and said in answer.err and answer.out == b""
