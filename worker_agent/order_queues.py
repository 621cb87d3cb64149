"""Which shim has which attempts, and behind whom another may wait.

A shim runs one attempt at a time and keeps a short queue behind it, so that short ones follow one
another without a word to the agent. How many may wait in a shim doubles with each short attempt
there, from 0 to 24, and halves with each that runs longer than 5 ms: only what is short in fact is
queued, and little is ever given back. Limits: not thread-safe; knows no order and no event.
"""

import math
import time
from collections.abc import Iterable

from worker_agent.attempts import Order
from worker_agent.shim_link import Message, ShimLink


class Attempt:
    """An attempt that was started, or adopted, and has not ended."""

    __slots__ = ("at", "discarded", "leads", "link", "order", "pid", "stop", "tries")

    def __init__(self, order: Order | None, *, leads: bool = False) -> None:
        self.order = order  # None: adopted from an earlier agent
        self.leads = leads
        self.link: ShimLink | None = None  # None: it waits for a shim
        self.pid = 0
        self.at = time.monotonic()
        self.discarded = False  # True: nobody may hear of its end
        self.stop: Message | None = None  # said again when a lost connection is made anew
        self.tries = 0


class OrderQueues:
    """The attempts of each shim of one runner."""

    def __init__(self) -> None:
        self.queued = 0  # attempts that are not the first of their shim
        self._led: dict[int, ShimLink] = {}  # shims behind whose attempts others may wait; at most the slots

    def shortest(self) -> ShimLink | None:
        """Return the busy shim with the fewest attempts that has room for another.

        A queue is filled again when half of it has run, not one for one, so that orders come in larger messages.
        """
        found, length = None, math.inf
        for link in self._led.values():
            count = len(link.orders)
            if count >= length or link.is_long or not link.queue_max:
                continue
            if count <= (link.queue_max if link.is_gathering else 1 + link.queue_max // 2):
                found, length = link, count
        return found

    def add(self, link: ShimLink, key: str, *, leads: bool) -> None:
        """Note that a shim gets an attempt; *leads*: others may wait behind it."""
        self.queued += bool(link.orders)
        link.orders[key] = None
        if leads:
            self._led[link.shim] = link

    def remove(self, link: ShimLink, keys: Iterable[str]) -> bool:
        """Note that a shim has done with attempts; True: it had some of them and has nothing more to do."""
        orders = link.orders
        before = len(orders)
        for key in keys:
            orders.pop(key, None)
        self.queued -= max(0, before - 1) - max(0, len(orders) - 1)
        if orders or not before:
            return False
        self.close(link)
        return True

    def close(self, link: ShimLink) -> None:
        """Let nothing more wait in a shim, until it is given an attempt that leads."""
        self._led.pop(link.shim, None)

    def runs_long(self, link: ShimLink) -> None:
        """Note that what a shim runs now takes longer: until its end nothing waits there."""
        link.is_long = True
        link.queue_max //= 2

    def ran(self, link: ShimLink) -> None:
        """Note that an attempt of a shim has ended."""
        if link.is_long:
            link.is_long = False
        else:
            link.queue_max = min(link.queue_limit, 2 * link.queue_max or 1)
