"""The supervisor of a private cluster: ``python -m hostler.cli.private PLAN``.

Runs the parts of one `hostler run` that found no cluster, in a temporary directory, for as long as a pipe
stays open that only the command holds; also when the command is killed, the pipe's end is seen here, the
parts are ended and the directory is removed. Standard library only, so that it is up at once.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hostler.cli.parts import Part, Parts, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a supervisor runs, and how it hears from and answers to the command that started it."""

    directories: tuple[str, ...]  # removed at the end; the first holds the logs
    parts: tuple[Part, ...]
    lifeline_fd: int  # its end of file means: end
    status_fd: int  # JSON of a failure is written to it; its end of file means: everything is gone

    def to_json(self) -> str:
        """Encode for the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Decode what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        parts = tuple(Part(**(part | {"stage": Stage(part["stage"])})) for part in fields["parts"])
        return cls(**(fields | {"directories": tuple(fields["directories"]), "parts": parts}))


async def supervise(plan: Plan) -> None:
    """Run the parts until the lifeline ends, a signal comes, or a part cannot work; then leave nothing."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        loop.remove_reader(plan.lifeline_fd)
        if not over.done():
            over.set_result(None)

    parts = Parts(Path(plan.directories[0]) / "logs", _say)
    try:
        for part in plan.parts:
            parts.start(part)
        loop.add_reader(plan.lifeline_fd, end)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, end)
        awaited: set[asyncio.Future[Any]] = {over, parts.gave_up}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if parts.gave_up.done():
            failure = parts.gave_up.result()
            os.write(plan.status_fd, json.dumps({"message": failure.message, "hint": failure.hint}).encode())
    finally:
        await parts.end_stage(Stage.WORKERS, signal_number=signal.SIGINT)
        # What the coordinator keeps is about to be removed: it need not put it in order.
        await parts.end_stage(Stage.COORDINATOR, signal_number=signal.SIGKILL)
        await parts.end()
        for directory in plan.directories:
            shutil.rmtree(directory, ignore_errors=True)


def _say(message: str) -> None:
    print(f"hostler: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(supervise(Plan.from_json(sys.argv[1])))
