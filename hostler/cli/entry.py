"""Where the command ``hostler`` begins: Ctrl-C ends it quietly also while its modules are being loaded.

That takes some tenths of a second, so nothing of ours is imported before the signal is taken care of.
"""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # as in hostler.cli.failures, which is not loaded yet


def main() -> None:
    """Run the command line of this process and exit with its code."""
    # Our caller may have us ignore it, as a shell does in the background.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from hostler.cli.main import main as run

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)  # the interpreter's own end takes a moment, too


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
