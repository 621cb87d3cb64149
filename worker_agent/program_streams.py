"""The first three descriptors of a program: pipes, a file, nothing, or one terminal.

Role: makes them for one start and keeps the ends that are ours: the output pipes go on reading, and what the program
is fed with is a `StdinPipe`.
Limits: standard library only; nothing here blocks.
"""

import os
import select
from typing import NamedTuple

from worker_agent.attempts import Order
from worker_agent.confinement import Confinement
from worker_agent.output_pipes import OutputPipes
from worker_agent.stdin_pipe import StdinPipe, open_file


class Streams(NamedTuple):
    """What a program gets, and what feeds it."""

    stdin: int
    stdout: int
    stderr: int
    feeds: StdinPipe | None
    owned: bool  # *stdin* is to be closed once the program was started


def make_streams(
    order: Order, output: OutputPipes, confinement: Confinement, poll: "select.epoll", null: int
) -> Streams:
    """Make the descriptors of the program of an order; *null* is one of /dev/null.

    Raises:
        OSError: the kernel refused one.
        SpawnFailed: the file that is its standard input cannot be opened.
    """
    if order.terminal:
        ours, theirs = output.open_terminal(order.terminal)
        confinement.own(theirs)
        # One of its own for the poll, which knows a descriptor only once.
        feeds = StdinPipe(os.dup(ours), poll, is_terminal=True) if order.stdin else None
        return Streams(theirs, theirs, theirs, feeds, owned=False)
    stdout, stderr = output.open(merge=order.merge)
    if order.stdin_path:
        stdin = open_file(order.stdin_path)
        confinement.own(stdout, stderr)
        return Streams(stdin, stdout, stderr, None, owned=True)
    if not order.stdin:
        confinement.own(stdout, stderr)
        return Streams(null, stdout, stderr, None, owned=False)
    stdin, write = os.pipe2(os.O_CLOEXEC)
    feeds = StdinPipe(write, poll)
    try:
        confinement.own(write, stdout, stderr)
    except BaseException:
        os.close(stdin)
        feeds.close()
        raise
    return Streams(stdin, stdout, stderr, feeds, owned=True)
