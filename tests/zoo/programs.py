"""The nasty programs. Each writes `up` in its directory when it is at its worst, and would then go on for ever.

Limits: all of them are bounded (`SMALL` in the quick suite, `FULL` otherwise), so that even one that got away
could not end the machine.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Scale(NamedTuple):
    """How much of everything the programs take."""

    forks: int
    orphans: int
    threads: int
    hog_bytes: int


SMALL = Scale(forks=80, orphans=200, threads=100, hog_bytes=128 << 20)
FULL = Scale(forks=200, orphans=2000, threads=400, hog_bytes=1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One inhabitant of the zoo."""

    name: str
    code: Callable[[Scale], str]  # Python, run with -I and -S in the program's workspace
    grace_s: float = 0.0
    kills_shim: bool = False  # warm, it ends its supervisor: what is left is found by a search
    hides: bool = False  # with that, it cannot be found by the search that a receipt names

    def argv(self, scale: Scale) -> tuple[str, ...]:
        """What is started."""
        return (sys.executable, "-I", "-S", "-c", _PRELUDE + self.code(scale))


_PRELUDE = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def up():
    with open('up.part', 'w') as file: file.write('up')
    os.rename('up.part', 'up')
def stay():
    while True: time.sleep(60)
def ignore(number=signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
def leave():
    for line in open('/proc/self/mountinfo'):
        if ' - cgroup' in line:
            try: open(line.split()[4] + '/cgroup.procs', 'w').write('0')
            except OSError: pass
"""


def _as_is(code: str) -> Callable[[Scale], str]:
    return lambda scale: code


_SETSID = """
if os.fork() == 0:
    os.setsid(); ignore(); up(); stay()
stay()
"""
_DOUBLE_FORK = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ignore(); place = os.getcwd(); up(); os.chdir('/')
        for fd in range(3): os.close(fd)
        stay()
    os._exit(0)
os.wait(); stay()
"""
_COMET = """
for _ in range(3):
    if os.fork() == 0:
        while True:
            if os.fork(): os._exit(0)
            os.setsid(); time.sleep(0.001)
up(); stay()
"""
_SIGTERM_IGNORER = """
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
    try: ignore(number)
    except (OSError, ValueError): pass
up(); stay()
"""
_STOPPED = """
if os.fork() == 0:
    ignore(); os.kill(os.getpid(), signal.SIGSTOP); stay()
ignore(); up(); os.kill(os.getpid(), signal.SIGSTOP); stay()
"""
# What it traces is stopped until it lets go, and it never does.
_TRACER = """
ignore()
libc.ptrace(16, os.getppid(), None, None)
up(); stay()
"""
_HOLDER = """
if os.fork() == 0:
    ignore(); up()
    while True: os.write(1, b'held\\n'); time.sleep(0.05)
os._exit(0)
"""
_LEAVER = """
leave()
if os.fork() == 0:
    os.setsid(); ignore(); stay()
ignore(); up(); stay()
"""
_NAMESPACES = """
if libc.unshare(0x10000000 | 0x20000000 | 0x00020000): sys.exit('no user namespace')
if os.fork() == 0:
    ignore()
    if os.fork() == 0: ignore(); os.setsid(); stay()
    up(); stay()
stay()
"""
_ZOMBIES = """
for _ in range(%d):
    if os.fork() == 0: os._exit(0)
up(); stay()
"""
# Inside a namespace of its own, where the next pid can be chosen, every child has the same one.
_PID_REUSE = """
if libc.unshare(0x20000000): sys.exit('no PID namespace')
if os.fork() == 0:
    if os.fork() == 0:
        while True:
            try: open('/proc/sys/kernel/ns_last_pid', 'w').write('300')
            except OSError: pass
            pid = os.fork()
            if pid == 0: os._exit(0)
            os.waitpid(pid, 0)
            if not os.path.exists('up'): up()
    stay()
stay()
"""
_SYMLINKS = """
place = os.environ['HOSTLER_OUTPUT_DIR']
os.makedirs(place + '/real', exist_ok=True)
open(place + '/real/f', 'w').write('mine')
canary = os.path.realpath('../../../canary')
up()
while True:
    for name, target in (('link', canary), ('folder', os.path.dirname(canary)), ('real/f', canary)):
        path = f'{place}/{name}'
        try: os.symlink(target, path + '.new'); os.rename(path + '.new', path)
        except OSError: pass
        try: os.unlink(path); open(path, 'w').write('mine')
        except OSError: pass
"""
_MANGLER = """
def mangle():
    libc.prctl(15, b'a) Z 1 (\\n\\xff', 0, 0, 0)
if os.fork() == 0:
    mangle(); ignore(); os.setsid(); stay()
if os.fork() == 0:
    os.execve('/bin/sleep', [b') R 0 (\\xff\\n', b'600'], {})
mangle(); ignore(); up(); stay()
"""
_SHIM_KILLER = """
os.kill(os.getppid(), signal.SIGKILL)
if os.fork() == 0:
    os.setsid(); ignore(); stay()
ignore(); up(); stay()
"""
_HIDING_KILLER = """
leave()
parent = os.getppid()
if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, '-I', '-S', '-c', '''
import os, signal, sys, time
os.kill(int(sys.argv[1]), signal.SIGKILL)
open('up', 'w').write('up')
time.sleep(600)
''', str(parent)], {})
stay()
"""


def _bomb(scale: Scale) -> str:
    return f"""
import resource
ignore()
left = {scale.forks}
while left > 0:
    left -= 1
    if os.fork() == 0:
        ignore(); left = left // 4
up(); stay()
"""


def _orphans(scale: Scale) -> str:
    return f"""
for n in range({scale.orphans}):
    if os.fork() == 0:
        if os.fork() == 0:
            if n % 20 == 0: ignore(); stay()
        os._exit(0)
    os.wait()
up(); stay()
"""


def _vfork_storm(scale: Scale) -> str:
    return """
for _ in range(3):
    if os.fork() == 0:
        while True:
            os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 0'], {}); os.waitpid(-1, os.WNOHANG)
            time.sleep(0.0005)
up(); stay()
"""


def _threads(scale: Scale) -> str:
    return f"""
import threading
threading.stack_size(65536)
def run():
    while True: time.sleep(0.05)
for _ in range({scale.threads}): threading.Thread(target=run, daemon=True).start()
pid = os.fork()
ignore(); up() if pid else None; stay()
"""


def _memory(scale: Scale) -> str:
    return f"""
kept = []
for _ in range({scale.hog_bytes >> 20}): kept.append(b'x' * (1 << 20))
ignore(); up()
while True: kept.pop(); kept.append(b'y' * (1 << 20)); time.sleep(0.001)
"""


def _descriptors(scale: Scale) -> str:
    return """
kept = []
try:
    while len(kept) < 20000: kept.append(os.pipe())
except OSError: pass
os.close(kept[0][0]); os.close(kept[0][1])
ignore(); up(); stay()
"""


# The directory is a small disk of the test's own.
def _disk(scale: Scale) -> str:
    return """
ignore()
file = os.open('../../../disk/fill', os.O_CREAT | os.O_WRONLY)
try:
    while True: os.write(file, bytes(65536))
except OSError: pass
up()
while True:
    try: os.write(file, bytes(4096))
    except OSError: time.sleep(0.001)
"""


PROGRAMS = (
    Program(name="setsid", code=_as_is(_SETSID)),
    Program(name="double fork", code=_as_is(_DOUBLE_FORK), grace_s=0.1),
    Program(name="comet", code=_as_is(_COMET)),
    Program(name="fork bomb", code=_bomb, grace_s=0.05),
    Program(name="SIGTERM ignorer", code=_as_is(_SIGTERM_IGNORER), grace_s=0.1),
    Program(name="stopped process", code=_as_is(_STOPPED), grace_s=0.1),
    Program(name="tracer of the shim", code=_as_is(_TRACER)),
    Program(name="daemon on stdout", code=_as_is(_HOLDER)),
    Program(name="cgroup leaver", code=_as_is(_LEAVER)),
    Program(name="user namespace", code=_as_is(_NAMESPACES), grace_s=0.1),
    Program(name="orphans", code=_orphans),
    Program(name="vfork storm", code=_vfork_storm, grace_s=0.05),
    Program(name="thread storm", code=_threads, grace_s=0.1),
    Program(name="memory hog", code=_memory),
    Program(name="descriptor hog", code=_descriptors),
    Program(name="disk hog", code=_disk),
    Program(name="zombie maker", code=lambda scale: _ZOMBIES % scale.orphans),
    Program(name="pid reuser", code=_as_is(_PID_REUSE)),
    Program(name="symlink racer", code=_as_is(_SYMLINKS)),
    Program(name="name mangler", code=_as_is(_MANGLER), grace_s=0.05),
    Program(name="shim killer", code=_as_is(_SHIM_KILLER), kills_shim=True),
    Program(name="hiding shim killer", code=_as_is(_HIDING_KILLER), kills_shim=True, hides=True),
)
