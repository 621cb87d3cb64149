"""How every hostler program begins and is told to end.

It begins with settings, logs, and how gRPC and memory are to behave; it ends on SIGTERM, SIGINT, or with its parent.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from hostler import logs
from hostler.errors import HostlerError, InvalidRequest, Unavailable
from hostler.settings import Settings, from_arguments, set_for_children

EXIT_UNUSABLE = 2  # the program cannot run as configured; starting it again would not help
EXIT_UNAVAILABLE = 1  # starting it again may help
NEXT = "  next: "  # begins the second line of an error, as of a command's
GC_THRESHOLD = 50_000
LARGE_BLOCK_BYTES = 512 * 1024  # more than asyncio's reads of 256 KiB: to map each of them takes longer than to read
PIECE_BYTES = 256 * 1024  # of a log
KEPT_BLOCK_BYTES = 1024 * 1024  # free at the end of the heap, for the next such read
ARENAS = 2  # of the C library; by default eight for each processor, of which each keeps what it once had
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD and so on of malloc.h
# Without them gRPC reads its sockets in the thread that waits for them (docs/decisions/0015). A gRPC that does not know
# these words any more says so on standard error and goes on.
GRPC_WITHOUT = "-event_engine_client,-event_engine_listener"


def choose_grpc_polling() -> None:
    """Call before anything imports gRPC, which looks only then: a message wakes two threads less on its way."""
    set_for_children("GRPC_EXPERIMENTS", GRPC_WITHOUT)


def settle_memory(large_block_bytes: int = LARGE_BLOCK_BYTES) -> None:
    """Call once at the end of a long-lived program's start: what is there now stays, and what comes is given back.

    Blocks of *large_block_bytes* and more are given back at once when they are freed. Who takes logs in from many sides
    says `PIECE_BYTES`: gRPC reads for it, and pieces that came and went would leave holes.

    The collector never looks again at what is there, and looks for cycles after 50,000 new objects instead of
    700: a job makes hundreds of objects and next to no cycles.
    """
    libc = ctypes.CDLL(None)
    _give_back_large_blocks(libc, large_block_bytes)
    gc.collect()
    _give_back_what_is_free(libc)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


def _give_back_large_blocks(libc: ctypes.CDLL, large_block_bytes: int) -> None:
    """Have the C library map large blocks by themselves, so that they are given back when they are freed.

    Left to itself it stops doing so after the first large message has come and gone, and the process stays as large
    as the largest ones that ever came together. Other C libraries know no such setting.
    """
    try:
        mallopt = libc.mallopt
    except AttributeError:
        return
    mallopt(_MMAP_THRESHOLD, large_block_bytes)
    mallopt(_TRIM_THRESHOLD, KEPT_BLOCK_BYTES)
    mallopt(_ARENA_MAX, ARENAS)


def _give_back_what_is_free(libc: ctypes.CDLL) -> None:
    """Give back the pages that the start has used and left; the C library alone gives back only those at its end."""
    with suppress(AttributeError):
        libc.malloc_trim(0)


def run_program(program: str, run: Callable[[Settings], Coroutine[Any, Any, int]]) -> int:
    """Read this process's settings, set up its logs, run it, and return its exit code.

    What cannot start as configured is a sentence on standard error, a second line with what to do, and
    `EXIT_UNUSABLE`; what cannot start because somebody else is away, `EXIT_UNAVAILABLE`. Where logs are JSON, it is
    one object.
    """
    form = ""
    try:
        settings = from_arguments(sys.argv[1:])
        form = settings.log_format
        logs.configure(level=settings.log_level, form=settings.log_format, program=program)
        return asyncio.run(run(settings))
    except InvalidRequest as error:
        _say(program, error, form, otherwise=f"see hostler {program} --help")
        return EXIT_UNUSABLE
    except Unavailable as error:
        _say(program, error, form, otherwise="see that the coordinator runs, then try again")
        return EXIT_UNAVAILABLE


def _say(program: str, error: HostlerError, form: str, *, otherwise: str) -> None:
    """Say what went wrong and what to do: what a message has after its first semicolon, else *otherwise*."""
    what, _, to_do = error.message.partition("; ")
    hint = to_do or otherwise
    if form == "json":
        print(json.dumps({"error": {"code": error.code, "message": what, "hint": hint}}), file=sys.stderr)
    else:
        print(f"hostler {program}: {what}\n{NEXT}{hint}", file=sys.stderr)


class Ending(asyncio.Event):
    """Set when this program is to end; `terminated` says whether by SIGTERM, the word of a service manager."""

    terminated = False


@asynccontextmanager
async def end_requested(parent_fd: int) -> AsyncIterator[Ending]:
    """Yield an event that is set on SIGTERM, on SIGINT, and at end of file of *parent_fd* (if >= 0).

    The write end of that pipe is held by the parent, and by the parts that must end before this one, so
    even a parent that was killed ends its parts in order.

    Raises:
        InvalidRequest: *parent_fd* is no open pipe.
    """
    loop = asyncio.get_running_loop()
    ending = Ending()

    def terminate() -> None:
        ending.terminated = True
        ending.set()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGINT, ending.set)

    def parent_spoke() -> None:
        if not os.read(parent_fd, 1024):
            loop.remove_reader(parent_fd)
            ending.set()

    if parent_fd >= 0:
        try:
            os.set_inheritable(parent_fd, False)
            loop.add_reader(parent_fd, parent_spoke)
        except OSError as error:
            raise InvalidRequest(
                f"parent_fd is {parent_fd}, which is no open pipe: {error.strerror}", field="parent_fd"
            ) from error
    try:
        yield ending
    finally:
        if parent_fd >= 0:
            loop.remove_reader(parent_fd)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
