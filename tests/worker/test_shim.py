"""One shim, spoken to directly: fencing, strangers, and a life without an agent."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostler import frames
from tests.worker.real_runner import streams
from worker_agent import shim as shim_module
from worker_agent.attempts import Cause, Ended, Exited, Order
from worker_agent.ledger import read_ledger, scan_segment
from worker_agent.shim_protocol import (
    Decoder,
    ProtocolError,
    encode,
    encode_orders,
    order_from_json,
)

ROOT = Path(__file__).parents[2]


class Line:
    """A blocking connection to a shim or a launcher."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(10)
        self._decoder = Decoder()
        self._waiting: list[dict[str, Any]] = []
        self._ends: list[Ended] = []

    def say(self, **message: Any) -> None:
        """Send one message."""
        self.sock.sendall(encode(message))

    def hear(self, *kinds: str) -> dict[str, Any]:
        """Return the next message of these kinds, leaving out others. Raises EOFError at the end of the connection."""
        while True:
            while self._waiting:
                message = self._waiting.pop(0)
                if message["type"] in kinds:
                    return message
            content = self.sock.recv(65536)
            if not content:
                raise EOFError
            self._waiting += self._decoder.feed(content)

    def hear_end(self) -> Ended:
        """Return the next end; ends that came with others in one message are returned one by one."""
        if not self._ends:
            self._ends = [Ended.from_json(each) for each in self.hear("ended")["ended"]]
        return self._ends.pop(0)

    def is_closed(self) -> bool:
        """Say whether the other side has closed, reading away what it had sent."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True


class OneShim:
    """A launcher with one shim, and the agents that come to it."""

    def __init__(self, place: Path, start: str = "from worker_agent.launcher import main; main()") -> None:
        self.place = place
        self.lines: list[Line] = []
        ours, theirs = socket.socketpair()
        for name in ("segments", "run"):
            (place / name).mkdir(exist_ok=True)
        arguments = ["--fd", str(theirs.fileno()), "--segments", str(place / "segments")]
        arguments += ["--sockets", str(place / "run"), "--cgroup", f"hostler-test{os.getpid()}"]
        command = [sys.executable, "-c", start, *arguments]
        self.launcher = subprocess.Popen(command, pass_fds=(theirs.fileno(),), cwd=ROOT)
        theirs.close()
        self.control = self._line(ours)
        self.control.say(type="fork", shim=1, nonce="secret")
        self.pid = int(self.control.hear("forked")["pid"])

    def _line(self, sock: socket.socket) -> Line:
        self.lines.append(Line(sock))
        return self.lines[-1]

    def connect(self) -> Line:
        """Return a connection that has not said hello."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.place / "run/shim-1.sock"))
        return self._line(sock)

    def agent(self, generation: int) -> tuple[Line, dict[str, Any]]:
        """Return a connection that has said hello, and the state it was answered."""
        line = self.connect()
        line.say(type="hello", generation=generation, nonce="secret")
        return line, line.hear("state")

    def wait_for_end(self) -> None:
        """Wait until the shim has ended and removed its socket."""
        until = time.monotonic() + 10
        while list((self.place / "run").iterdir()):
            assert time.monotonic() < until, "the shim did not end"
            time.sleep(0.01)

    def close(self) -> None:
        """End what still runs, and check that nothing is left."""
        if list((self.place / "run").iterdir()):
            line, state = self.agent(1000)
            if state["key"]:
                line.say(type="stop", key=state["key"], grace_s=0, cause="drain")
            line.say(type="retire")
        self.wait_for_end()
        for line in self.lines:
            line.sock.close()
        assert self.launcher.wait(10) == 0


@pytest.fixture
def one(place: Path) -> Iterator[OneShim]:
    """One shim; afterwards it, its launcher and its socket are gone."""
    made = OneShim(place)
    yield made
    made.close()


def run_bytes(key: str, *argv: str) -> bytes:
    """Return an order as it is sent."""
    return encode_orders([Order(key=key, argv=argv)])


def run_all(line: Line, orders: list[Order]) -> None:
    """Send orders in one message."""
    line.sock.sendall(encode_orders(orders))


def run(line: Line, key: str, *argv: str, **options: Any) -> None:
    """Send an order."""
    line.sock.sendall(encode_orders([Order(key=key, argv=argv, **options)]))


def test_an_order_survives_its_journey() -> None:
    """Values and defaults alike."""
    order = Order(key="k", argv=("a", "b"), env={"x": "y"}, cwd="/", timeout_s=1.5, output_bytes_max=3, stdin_path="/x")
    shorter = [Order(key="k", argv=()), Order(key="k", argv=("a",), cwd="/"), Order(key="k", argv=(), env={"x": "y"})]
    orders = [order, order._replace(stdin=True, stdin_path=""), *shorter]
    (message,) = Decoder().feed(encode_orders(orders))
    assert [order_from_json(each) for each in message["orders"]] == orders


@pytest.mark.parametrize("noise", [b"\xff\xff\xff\x7f", b"\x02\0\0\0no", b"\x02\0\0\0[]", b"\x02\0\0\0{}"])
def test_what_is_no_message_is_refused(noise: bytes) -> None:
    """A length beyond the bound, no JSON, no object, no type."""
    with pytest.raises(ProtocolError):
        Decoder().feed(noise)


def test_messages_come_out_whole_however_they_are_cut() -> None:
    """Byte by byte or all at once."""
    content = encode({"type": "a"}) + encode({"type": "b", "x": 1})
    decoder = Decoder()
    pieces = [message for at in range(len(content)) for message in decoder.feed(content[at : at + 1])]
    assert pieces == Decoder().feed(content) == [{"type": "a"}, {"type": "b", "x": 1}]


def test_a_higher_generation_closes_the_older_agent_unread(one: OneShim) -> None:
    """An order that the old agent had sent, but the shim had not read, never runs."""
    old, _ = one.agent(1)
    os.kill(one.pid, 19)
    run(old, "late.0.1", "touch", str(one.place / "ran"))
    new = one.connect()
    new.say(type="hello", generation=2, nonce="secret")
    os.kill(one.pid, 18)

    state = new.hear("state")

    if state["key"] is None and not state["ended"]:
        assert old.is_closed()
        run(new, "next.0.1", "true")
        assert new.hear_end().key == "next.0.1"
        assert not (one.place / "ran").exists()
    else:
        # It was read before the hello: then the new agent is told of it, which is as good.
        assert "late.0.1" in (state["key"], *(Ended.from_json(each).key for each in state["ended"]))
    assert state["generation"] == 2


def test_a_lower_generation_is_refused(one: OneShim) -> None:
    """And the agent that is there is not disturbed."""
    agent, _ = one.agent(5)
    old = one.connect()
    old.sock.sendall(encode({"type": "hello", "generation": 4, "nonce": "secret"}) + run_bytes("old.0.1", "true"))
    assert old.is_closed()
    run(agent, "a.0.1", "true")
    assert agent.hear_end().key == "a.0.1"


@pytest.mark.parametrize(
    "message",
    [
        {"type": "hello", "generation": 9, "nonce": "wrong"},
        {"type": "hello", "generation": "9", "nonce": "secret"},
        {"type": "run", "orders": [["x.0.1", ["true"]]]},
        {"type": "retire"},
    ],
)
def test_a_stranger_is_not_listened_to(one: OneShim, message: dict[str, Any]) -> None:
    """Without the nonce nobody gives orders, and the agent that is there stays."""
    agent, _ = one.agent(1)
    stranger = one.connect()
    stranger.say(**message)
    assert stranger.is_closed()
    run(agent, "a.0.1", "true")
    assert agent.hear_end().exit_code == 0


def test_a_silent_stranger_is_cut_off(one: OneShim) -> None:
    """Half a hello keeps a place only for a few seconds."""
    one.agent(1)  # without an agent the shim itself would end before
    stranger = one.connect()
    stranger.sock.sendall(b"\x10\0\0\0half")
    stranger.sock.settimeout(shim_module.HELLO_S + 5)
    assert stranger.is_closed()


@pytest.mark.parametrize(
    "orders",
    [[{"key": "a.0.1"}], [["a.0.1"]], [["a.0.1", "true"]], [["a.0.1", ["true"], *range(100)]], [], "x", None],
)
def test_an_order_that_makes_no_sense_starts_nothing(one: OneShim, orders: Any) -> None:
    """The connection is closed, the shim is of use to the next."""
    agent, _ = one.agent(1)
    agent.say(type="run", orders=orders)
    assert agent.is_closed()
    again, state = one.agent(1)
    assert (state["key"], state["ended"]) == (None, [])
    run(again, "b.0.1", "true")
    assert again.hear_end().key == "b.0.1"


def test_an_attempt_goes_on_without_its_agent(one: OneShim) -> None:
    """Output is kept, the time limit is enforced, and the next agent is told what happened."""
    agent, _ = one.agent(1)
    script = f"echo before; touch {one.place}/up; sleep 0.3; echo after; sleep 60"
    run(agent, "a.0.1", "/bin/sh", "-c", script, timeout_s=1.0, grace_s=0.0)
    assert agent.hear("started")["key"] == "a.0.1"
    agent.sock.close()

    again, state = one.agent(2)
    assert (state["key"], state["ended"]) == ("a.0.1", [])
    ended = again.hear_end()

    assert (ended.cause, ended.signal, ended.out_bytes) == (Cause.TIMEOUT, "SIGKILL", len("before\nafter\n"))
    again.sock.close()
    _, state = one.agent(3)
    assert state["ended"] == [ended.to_json()]


def test_a_plain_exit_says_every_field_of_an_end(one: OneShim) -> None:
    """The quick way to write it leaves nothing out and adds nothing."""
    agent, _ = one.agent(1)
    run(agent, "a.0.1", "/bin/sh", "-c", "echo x; exit 4")
    (content,) = agent.hear("ended")["ended"]
    assert list(Exited(*content)) == content
    ended = Exited(*content).ended()
    assert Ended.from_json(content) == Ended.from_json(ended.to_json()) == ended
    assert (ended.cause, ended.exit_code, ended.out_bytes, ended.usage.processes) == (Cause.EXIT, 4, 2, 1)
    assert (ended.segment, ended.ledger_bytes) == ("shim-1.1.segment", 2 + frames.HEADER_BYTES)
    assert 0 < ended.started_at_us <= ended.ended_at_us == ended.receipt.verified_at_us


def test_an_idle_shim_without_an_agent_ends(place: Path) -> None:
    """After its time it removes its socket and leaves only its segment, which is the agent's."""
    start = "from worker_agent import shim; shim.ORPHAN_S = 0.2; from worker_agent.launcher import main; main()"
    one = OneShim(place, start)
    one.wait_for_end()
    assert [path.name for path in (place / "segments").iterdir()] == ["shim-1.1.segment"]
    one.close()


def test_what_nobody_can_ever_ask_for_is_ended(place: Path) -> None:
    """An agent that is away comes back to its jobs; once their segment was deleted, none ever can."""
    start = "from worker_agent import shim; shim.ORPHAN_S = 0.1; from worker_agent.launcher import main; main()"
    one = OneShim(place, start)
    agent, _ = one.agent(1)
    run(agent, "a.0.1", "/bin/sh", "-c", "while :; do head -c 4096 /dev/zero; sleep 0.01; done")
    agent.hear("output")
    agent.sock.close()
    time.sleep(0.5)  # some looks, while it is there
    agent, state = one.agent(2)
    assert state["key"] == "a.0.1"
    shutil.rmtree(place / "segments")
    agent.sock.close()
    one.wait_for_end()
    assert not os.path.exists(f"/proc/{state['main_pid']}")
    one.close()


def test_a_full_disk_costs_output_but_not_the_exit_frame(place: Path) -> None:
    """On a file system of 256 KiB the output is counted as dropped, the program runs on, and its end is on disk."""
    small = place / "segments"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        _check_full_disk(place)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def _check_full_disk(place: Path) -> None:
    one = OneShim(place)
    line, _ = one.agent(1)
    run(line, "a.0.1", "/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 3")
    ended = line.hear_end()
    one.close()

    (record,) = scan_segment(place / "segments/shim-1.1.segment").attempts
    assert record.ended == ended
    assert ended.exit_code == 3
    assert ended.out_bytes > 0
    assert ended.out_bytes + ended.dropped_bytes == 1_000_000
    with (place / "segments/shim-1.1.segment").open("rb") as file:
        out, _, gaps = streams(read_ledger(file.fileno(), record.ledger_offset, 0, 1 << 20))
    assert (len(out), sum(lost for lost, _ in gaps)) == (ended.out_bytes, ended.dropped_bytes)
