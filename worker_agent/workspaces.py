"""Every workspace of one agent, from the first directory to the last file removed: the owner of the work on them.

The agent says what is to happen to an attempt and is told when it has happened; it knows no file and no
transfer. At any time one piece of work is under way for an attempt: it is prepared, or what it left is
collected, or its workspace is removed. Removal waits for the work before it.
Limits: asyncio, one event loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from hostler import frames, logs
from hostler.client import Client
from hostler.errors import HostlerError
from hostler.files_client import FilesClient
from hostler.jobs import Work
from hostler.settings import make_private_dir
from hostler.tls import Target
from worker_agent.attempts import Ended, Order
from worker_agent.collection import COLLECT_S
from worker_agent.collection import Collection as OutputCollection
from worker_agent.containers import Containers
from worker_agent.notes import Notes
from worker_agent.observation import Observation
from worker_agent.podman import Podman
from worker_agent.preparation import Preparation
from worker_agent.reach import Reach
from worker_agent.reports import Collected
from worker_agent.services import Services
from worker_agent.transfers import ConnectedTime, in_thread
from worker_agent.unprepared import NotPrepared, NotStarted
from worker_agent.workspace import Workspace

TELL_PHASE_S: Final = 0.05  # a phase that is over sooner is not told
CLOSE_S: Final = 5.0
LAST_WORDS_BYTES: Final = 256 * 1024  # of a ledger: podman's complaint when it started nothing is a line or two


class Owner(Protocol):
    """Who is told what became of an attempt's workspace; never blocks and never raises."""

    notes: Notes
    news: asyncio.Event

    def on_prepared(self, order: Order) -> None:
        """The attempt can be started with this order."""

    def on_not_prepared(self, key: str, refusal: str, *, disk_full: bool) -> None:
        """The attempt cannot be started; it never ran."""

    def on_not_started(self, key: str, error: str) -> None:
        """What the attempt's program needs cannot be started: it has ended so."""

    def on_collected(self, ended: Ended, collected: Collected) -> None:
        """What the attempt left is stored, or named; its end can be told."""

    def read_log(self, key: str, position: int, max_bytes: int) -> bytes:
        """Whole frames of the attempt's ledger from a position on; empty at its end."""


class Workspaces:
    """The workspaces below one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        address: str | Target,
        owner: Owner,
        collect_s: float = COLLECT_S,
        podman: Podman | None = None,
        volumes_allowed: Collection[str] = (),
        shared: Path | None = None,
        confined: bool = False,
    ) -> None:
        """*directory* is the worker's own; *address* the coordinator's, called only when there are files to move.

        *volumes_allowed* are the directories of the host that containers may mount. *shared* is there when programs
        run as other users: what they have to reach lies in it. *confined*: see `Preparation`.
        """
        self._directories = [directory.absolute() / "work"]
        if shared is not None:
            self._directories.insert(0, shared / "work")
        self._reach: Reach[Client] = Reach(address, Client)
        self._owner = owner
        self._known: set[str] = set()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._removing: set[asyncio.Task[None]] = set()
        self._closing = False
        self.connected = ConnectedTime()
        self._observation = Observation(owner.notes, owner.news.set)
        self._podman = podman or Podman("", (), directory)
        self._containers = Containers(self._podman, volumes_allowed)
        self.services = Services(self._podman, directory)
        self._preparation = Preparation(
            self._files,
            (shared or directory.absolute()) / "script_path",
            self._containers,
            self.services,
            confined=confined,
        )
        self._collection = OutputCollection(self._files, self.connected, collect_s, owner.read_log)

    def move(self, target: Target) -> None:
        """Reach the coordinator so from now on; what is being moved is not disturbed."""
        self._reach.move(target)

    def __contains__(self, key: str) -> bool:
        """Whether an attempt has a workspace here."""
        return key in self._known

    def __getitem__(self, key: str) -> Workspace:
        """Return the workspace of an attempt. Raises KeyError when it has none."""
        if key not in self._known:
            raise KeyError(key)
        return Workspace(self._path_of(key))

    def _path_of(self, key: str) -> Path:
        """Where the workspace of an attempt is, or is to be: one of an earlier start may lie in another directory."""
        first, *others = self._directories
        return next((each / key for each in others if (each / key).exists()), first / key)

    # -- the life of a workspace

    def adopt(self, keys: Collection[str]) -> set[str]:
        """Take over what an earlier agent left: return those of *keys* that have a workspace, remove all others."""
        there: set[str] = set()
        for directory in self._directories:
            with contextlib.suppress(FileNotFoundError):
                there.update(path.name for path in directory.iterdir())
        self._known = there & set(keys)
        for name in there - self._known:
            self._remove(name)
        for key in self._known:
            if service := self[key].read_plan().service:
                self.services.adopt_call(key, service)
        return set(self._known)

    async def keep_containers(self, usable: Callable[[], None]) -> None:
        """Find out whether containers can be run here, and say so; take over those of an earlier agent.

        Returns only when cancelled.
        """
        if not await self._podman.problem():
            # First, so that what an earlier agent left is not removed under the hands of what starts now.
            try:
                await self.services.recover()
                await self._containers.sweep(self._known.__contains__)
            except (OSError, HostlerError) as error:
                logs.get().warning("container.kept", reason=str(error))
            usable()
        await asyncio.Event().wait()

    def prepare(self, order: Order, work: Work) -> None:
        """Make and fill the workspace of an attempt; `on_prepared` or `on_not_prepared` follows."""
        self._known.add(order.key)
        self._say_phase(order.key, "preparing")
        self._begin(order.key, self._prepare(order, work))

    def watch(self, key: str) -> None:
        """The attempt runs: look at its progress and its outputs."""
        if key in self._known:
            self._observation.watch(key, self[key])

    def collect(self, ended: Ended) -> None:
        """The attempt has ended: store what it left; `on_collected` follows."""
        self._say_phase(ended.key, "collecting")
        self._begin(ended.key, self._collect(ended))

    def cancel(self, key: str) -> None:
        """What is under way for an attempt is no longer wanted."""
        if key in self._under_way:
            self._under_way[key].cancel()

    def let_go(self, keys: Iterable[str]) -> None:
        """Nobody needs these attempts any more: remove their workspaces."""
        if not self._known:
            return
        for key in self._known.intersection(keys):
            self._known.discard(key)
            self.services.release(key)
            self._observation.leave(key)
            self._owner.notes.drop(key)
            self._remove(key)

    async def keep_watching(self) -> None:
        """Look at what running attempts leave, until cancelled."""
        await self._observation.run()

    async def close(self) -> None:
        """End what is under way; the next agent begins it again. Removals get 5 s."""
        for work in self._under_way.values():
            work.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        if self._removing:
            await asyncio.wait(self._removing, timeout=CLOSE_S)
        self._closing = True
        await asyncio.gather(*self._removing, return_exceptions=True)
        await self.services.close()
        await self._podman.close()
        await self._reach.close()

    # -- the work

    def _begin(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        begun = self._under_way[key] = asyncio.get_running_loop().create_task(work)
        begun.add_done_callback(lambda _: self._under_way.get(key) is begun and self._under_way.pop(key))

    def _files(self) -> FilesClient:
        return self._reach.get().files

    def _say_phase(self, key: str, phase: str) -> None:
        self._owner.notes.phase(key, phase)
        # Most phases are over at once, and then there is nothing to be said.
        asyncio.get_running_loop().call_later(TELL_PHASE_S, self._tell_notes)

    def _tell_notes(self) -> None:
        if self._owner.notes:
            self._owner.news.set()

    async def _prepare(self, order: Order, work: Work) -> None:
        try:
            if len(self._directories) == 1:
                make_private_dir(self._directories[0])
            prepared = await self._preparation.prepare(self[order.key], order, work)
        except NotPrepared as error:
            self._owner.on_not_prepared(order.key, error.refusal, disk_full=error.disk_full)
        except NotStarted as error:
            self._owner.on_not_started(order.key, error.error)
        except Exception as error:
            # The owner of this work: whatever went wrong, the attempt must not wait for ever.
            logs.get().exception("workspace.failed", attempt=order.key)
            self._owner.on_not_prepared(order.key, f"its workspace cannot be made: {error}", disk_full=False)
        else:
            self._owner.notes.phase(order.key, "")
            self._owner.on_prepared(prepared)

    async def _collect(self, ended: Ended) -> None:
        try:
            workspace, progress = self[ended.key], self._observation.leave(ended.key)
            plan = await in_thread(workspace.read_plan)
            self.services.release(ended.key)
            if plan.container:
                ended = await self._containers.finish(workspace, ended, self._last_words(ended))
            collected = await self._collection.collect(workspace, ended, progress, stdout=plan.result_stdout)
        except Exception as error:
            # The owner of this work: whatever went wrong, the end must be told.
            logs.get().exception("workspace.failed", attempt=ended.key)
            collected = Collected(missing=(f"outputs: they cannot be collected: {error}",))
        self._owner.on_collected(ended, collected)

    def _last_words(self, ended: Ended) -> bytes:
        """The end of what an attempt has written to its standard error, or to both where they are one."""
        read = self._owner.read_log(ended.key, 0, LAST_WORDS_BYTES) if ended.ledger_bytes <= LAST_WORDS_BYTES else b""
        kind = frames.ERR if ended.err_bytes else frames.OUT
        return b"".join(frame.payload for frame in frames.iter_frames(read) if frame.kind == kind)

    def _remove(self, key: str) -> None:
        under_way = self._under_way.get(key)
        if under_way is not None:
            under_way.cancel()
        removing = asyncio.get_running_loop().create_task(self._remove_after(under_way, key))
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)

    async def _remove_after(self, under_way: "asyncio.Task[None] | None", key: str) -> None:
        if under_way is not None:
            await asyncio.gather(under_way, return_exceptions=True)
        path = self._path_of(key)
        try:
            with contextlib.suppress(FileNotFoundError):
                await in_thread(Workspace(path).remove, lambda: not self._closing)
        except OSError as error:
            if not self._closing:
                logs.get().warning("workspace.kept", path=str(path), reason=str(error))
