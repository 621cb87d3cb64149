"""Several "hosts" on one machine: network namespaces on one switch, whose links can be cut and healed.

    h1 (10.77.0.1)   h2 (10.77.0.2)   h3 (10.77.0.3)       one namespace each: LAB-h1 ...
         | eth0           | eth0           | eth0
         +------ p1 ------+------ p2 ------+ p3            namespace LAB-sw: bridge br0

The machine's own namespace gets no interface, route or rule, and nothing in a lab reaches anything
outside of it. Labs of different names can exist at once, all with the same addresses. Only the
network is a host's own: files, unix sockets and process ids are everybody's.

Needs root, iproute2 and util-linux; `drop` needs iptables. Limits: a process that has left its
host's namespace is not found by `crash` and `down`.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMESPACES = Path("/run/netns")
SUBNET = "10.77.0"
HOSTS_MAX = 200
_KILL_PASSES = 20
# The host's own name, without `ip netns exec`: that mounts a new /sys, which hides the cgroup file systems.
_NAMED = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
_NO_IPV6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"


class LabError(RuntimeError):
    """The lab cannot be made or changed as asked."""


def _run(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(arguments, check=False, input=stdin, text=True, capture_output=True, timeout=60)
    if check and done.returncode:
        raise LabError(f"{' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Lab:
    """One switch and its hosts. Use it as a context manager; leaving removes everything."""

    def __init__(self, name: str, hosts: int) -> None:
        """*name*: letters, digits and underscores; it must be nobody else's."""
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name):
            raise LabError(f"a lab cannot be called {name!r}: letters, digits and underscores")
        if not 1 <= hosts <= HOSTS_MAX:
            raise LabError(f"a lab has 1 to {HOSTS_MAX} hosts")
        self.name = name
        self.hosts = tuple(f"h{number}" for number in range(1, hosts + 1))

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # -- names

    @property
    def switch(self) -> str:
        """The namespace of the switch."""
        return f"{self.name}-sw"

    def namespace(self, host: str) -> str:
        """The namespace of a host."""
        return f"{self.name}-{host}"

    def address(self, host: str) -> str:
        """The address of a host."""
        return f"{SUBNET}.{self._number(host)}"

    def _number(self, host: str) -> int:
        if host not in self.hosts:
            raise LabError(f"lab {self.name} has no host {host!r}")
        return int(host[1:])

    # -- life

    def up(self) -> Self:
        """Make the hosts; an older lab of this name goes first."""
        if os.geteuid():
            raise LabError("a lab needs root")
        for tool in ("ip", "nsenter", "unshare", "iptables"):
            if not shutil.which(tool):
                raise LabError(f"{tool} was not found: apt-get install iproute2 util-linux iptables")
        self.down()
        try:
            self._make()
        except BaseException:
            self.down()
            raise
        return self

    def _make(self) -> None:
        for namespace in (self.switch, *map(self.namespace, self.hosts)):
            _run("ip", "netns", "add", namespace)
            self._inside(namespace, "sh", "-c", f"{{ {_NO_IPV6}; }} 2>/dev/null || true")
        lines = ["link add br0 type bridge", "link set br0 up"]
        for host in self.hosts:
            number = self._number(host)
            lines += [
                f"link add p{number} type veth peer name eth0 address 02:77:00:00:00:{number:02x} "
                f"netns {self.namespace(host)}",
                f"link set p{number} master br0",
                f"link set p{number} up",
            ]
        _run("ip", "-n", self.switch, "-batch", "-", stdin="\n".join(lines) + "\n")
        for host in self.hosts:
            own = f"link set lo up\nlink set eth0 up\naddr add {self.address(host)}/24 brd + dev eth0\n"
            _run("ip", "-n", self.namespace(host), "-batch", "-", stdin=own)

    def down(self) -> None:
        """End what runs in the hosts and remove everything; nothing there is fine."""
        namespaces = [name for name in (*map(self.namespace, self.hosts), self.switch) if (NAMESPACES / name).exists()]
        for namespace in namespaces:
            self._kill_all(namespace)
        for namespace in namespaces:
            _run("ip", "netns", "del", namespace, check=False)
            (NAMESPACES / namespace).unlink(missing_ok=True)  # a stale name whose namespace has gone already

    def pids(self, host: str) -> list[int]:
        """The processes of a host that are no zombies."""
        self._number(host)
        return self._pids(self.namespace(host))

    def _pids(self, namespace: str) -> list[int]:
        found = [int(word) for word in _run("ip", "netns", "pids", namespace, check=False).split()]
        return [pid for pid in found if pid != os.getpid() and not _is_zombie(pid)]

    def _kill_all(self, namespace: str) -> None:
        for _ in range(_KILL_PASSES):  # again, for what was forked meanwhile
            pids = self._pids(namespace)
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    # -- programs

    def _inside(self, namespace: str, *command: str) -> str:
        return _run("nsenter", f"--net={NAMESPACES / namespace}", "--", *command)

    def command(self, host: str, command: list[str]) -> list[str]:
        """The command line that runs *command* in a host; every step is an exec, so its pid is the program's."""
        self._number(host)
        entered = ["nsenter", f"--net={NAMESPACES / self.namespace(host)}", "--", "unshare", "--uts", "--"]
        return [*entered, "sh", "-c", _NAMED, host, *command]

    def popen(self, host: str, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in a host; *options* are those of `subprocess.Popen`."""
        return subprocess.Popen(self.command(host, command), **options)

    # -- faults

    def _switched(self, *arguments: str) -> None:
        _run("ip", "-n", self.switch, *arguments)

    def cut(self, host: str) -> None:
        """Let every packet from and to a host vanish; it sees no carrier go."""
        self._switched("link", "set", f"p{self._number(host)}", "nomaster")

    def drop(self, source: str, target: str) -> None:
        """One way only: what *source* sends to *target* vanishes on arrival.

        On arrival, because a packet that is refused where it is sent is an error the sender sees.
        """
        rule = ["INPUT", "-s", self.address(source), "-j", "DROP"]
        self._inside(self.namespace(target), "iptables", "-w", "-I", *rule)

    def partition(self, *groups: list[str]) -> None:
        """Groups that cannot reach each other; a host in no group stays with the first."""
        for number, group in enumerate(groups):
            if number:
                _run("ip", "-n", self.switch, "link", "add", f"br{number}", "type", "bridge", check=False)
                self._switched("link", "set", f"br{number}", "up")
            for host in group:
                self._switched("link", "set", f"p{self._number(host)}", "master", f"br{number}")

    def crash(self, host: str) -> None:
        """SIGKILL for every process of a host, as by a power failure (but its boot id stays)."""
        self._number(host)
        self._kill_all(self.namespace(host))

    def heal(self, *hosts: str) -> None:
        """Undo what was done to the links of these hosts, or of all."""
        for host in hosts or self.hosts:
            self._switched("link", "set", f"p{self._number(host)}", "master", "br0")
            self._inside(self.namespace(host), "iptables", "-w", "-F", "INPUT")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
