"""What is opened while paths of callers try to lead outside: an audit hook of the interpreter sees every file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import aiohttp
import pytest

from coordinator.app import Coordinator
from hostler.client import Client
from hostler.settings import load
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.conftest import Caller
from tests.security.http_corpus import PATHS, PLACES, path_case
from worker_agent.workspace import Workspace

ROOT = Path(__file__).parents[2]
EVENTS = frozenset(
    {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink",
     "os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree"}
)  # fmt: skip


class Watch:
    """The hook, which nobody can take away again; it notes nothing but while it is asked to."""

    def __init__(self) -> None:
        self.names: list[str] | None = None
        self._is_set = False

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Note every name that is opened, listed or changed; descriptors are of what was opened before."""
        if not self._is_set:
            sys.addaudithook(self._hook)
            self._is_set = True
        names: list[str] = []
        self.names = names
        try:
            yield names
        finally:
            self.names = None

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.names is not None and event in EVENTS:
            self.names += [os.fsdecode(name) for name in args[:2] if isinstance(name, str | bytes | os.PathLike)]


WATCH = Watch()


def _ours(names: list[str]) -> list[str]:
    """Without modes of `open`, which are texts as well, and code that is loaded."""
    code = (str(ROOT), sys.prefix, sys.base_prefix)
    return [name for name in names if name not in ("r", "w", "rb", "wb", "x") and not name.startswith(code)]


def test_the_hook_sees_what_is_opened(tmp_path: Path) -> None:
    """By name and below a descriptor; else the others would show nothing."""
    (tmp_path / "a").write_text("x")
    fd = os.open(tmp_path, os.O_RDONLY)
    with WATCH.watching() as names:
        (tmp_path / "a").read_text()
        os.close(os.open("a", os.O_RDONLY, dir_fd=fd))
        os.listdir(fd)
    os.close(fd)
    assert _ours(names) == [str(tmp_path / "a"), "a"]


def test_a_worker_opens_one_name_after_the_other_below_the_outputs(tmp_path: Path) -> None:
    """Whatever path is asked for: no name with a slash in it, and none that leads up."""
    workspace = Workspace(tmp_path / "job.0.1")
    workspace.make({})
    outputs = workspace.path / "outputs"
    (outputs / "a").mkdir()
    (outputs / "a/b").write_text("x")
    (outputs / "up").symlink_to("..")
    asked = {text for path in PATHS for text in (path, unquote(path), unquote(unquote(path)))}
    asked |= {unquote_to_bytes(path).decode("utf-8", "surrogateescape") for path in PATHS}
    opened = 0
    for path in [*sorted(asked), "a/b", "up/params.json", "up/outputs/a/b", "a/../a/b"]:
        with WATCH.watching() as names:
            try:
                fd, _ = workspace.open_output(path)
            except (OSError, ValueError):
                fd = -1
        below = [name for name in _ours(names) if not name.startswith(str(workspace.path))]
        assert not [name for name in below if "/" in name or name in ("..", ".", "")], path
        if fd >= 0:
            assert Path(os.readlink(f"/proc/self/fd/{fd}")).is_relative_to(outputs), path
            os.close(fd)
            opened += 1
    assert opened == 1


async def test_a_gateway_and_a_coordinator_open_nothing_outside(data_dir: Path) -> None:
    """Both in this process, and every path of the corpus at every place where a route takes one."""
    settings = load(data_dir=data_dir, grpc="", disk_reserve_bytes=0, sample_workloads=False)
    async with (
        Coordinator(settings),
        Client(f"unix:{data_dir}/run/coordinator.sock", principal=UNSAID) as client,
        serve(make_app(client, settings), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(url, session)
        statuses = set()
        with WATCH.watching() as names:
            for place in PLACES:
                for path in PATHS:
                    statuses.add((await caller.raw(path_case(place, path).raw))[9:12])
    assert {b"400", b"404"} <= statuses and not {s for s in statuses if s.startswith(b"5")}
    assert [name for name in _ours(names) if not name.startswith(str(data_dir))] == []


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd"])
def test_the_hook_would_have_told(tmp_path: Path, path: str) -> None:
    """A reader that joins paths, as it is done everywhere, is found out."""
    with WATCH.watching() as names, suppress(OSError):
        (tmp_path / path).read_bytes()
    assert [name for name in _ours(names) if "/etc/passwd" in name]
