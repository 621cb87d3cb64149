"""A receipt as a sentence: the same for the command line and for HTTP.

Pure.
"""

from hostler.jobs import End
from hostler.wording import counted

PROCESSES_NAMED_MAX = 8


def receipt_text(end: End) -> str:
    """A receipt as one sentence: what was signalled, what ended, what is left or that nobody knows."""
    receipt = end.receipt
    sent = ", ".join(f"{one.signal} to {counted(one.processes, 'process', 'processes')}" for one in receipt.signals)
    ended = counted(len(receipt.ended), "process", "processes") + " ended"
    if receipt.ended:
        named = [f"{one.name or '?'} {one.pid}" for one in receipt.ended[:PROCESSES_NAMED_MAX]]
        more = len(receipt.ended) - len(named)
        ended += f" ({', '.join(named)}{f' and {more} more' if more else ''})"
    left = "no survivors" if end.nothing_left else "whether any survived is not known"
    if receipt.survivors:
        left = "survivors: " + ", ".join(f"{one.name or '?'} {one.pid}" for one in receipt.survivors)
    return f"{sent or 'no signal was needed'}; {ended}; {left}"
