"""Looks at what running attempts leave in their workspaces: progress every 0.25 s, output directories once a second.

One loop for all of them, without threads: a look costs a stat each while nothing has changed. Listing
may use a twentieth of the time at most; with many files it becomes rarer.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from worker_agent.notes import Notes
from worker_agent.progress_file import ProgressFile
from worker_agent.workspace import Workspace

LOOK_S: Final = 0.25
LIST_S: Final = 1.0
LIST_SHARE: Final = 20  # of the time, one part for listing


class _Watched:
    __slots__ = ("due", "progress", "workspace")

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.progress = ProgressFile(workspace)
        self.due = 0.0  # when the output directory is listed next


class Observation:
    """The running attempts of one agent that have a workspace."""

    def __init__(self, notes: Notes, news: Callable[[], None]) -> None:
        """What is seen goes into *notes*; *news* says that there is something."""
        self._notes = notes
        self._news = news
        self._watched: dict[str, _Watched] = {}
        self._wanted = asyncio.Event()

    def watch(self, key: str, workspace: Workspace) -> None:
        """Look at an attempt from now on; legal more than once."""
        if key not in self._watched:
            self._watched[key] = _Watched(workspace)
            self._wanted.set()

    def leave(self, key: str) -> ProgressFile | None:
        """Look no more; returns the reader of its progress file, to be read to its end."""
        watched = self._watched.pop(key, None)
        if not self._watched:
            self._wanted.clear()
        return watched.progress if watched is not None else None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._wanted.wait()
            if self._look():
                self._news()
            await asyncio.sleep(LOOK_S)

    def _look(self) -> bool:
        """Look at everything once; whether anything is new."""
        found = False
        for key, watched in self._watched.items():
            if watched.progress.read_more():
                self._notes.advance(key, watched.progress.advance())
                found = True
            now = time.monotonic()
            if now >= watched.due:
                found = self._notes.outputs(key, watched.workspace.list_outputs()) or found
                cost_s = time.monotonic() - now
                watched.due = now + max(LIST_S, LIST_SHARE * cost_s * len(self._watched))
        return found
