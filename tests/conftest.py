"""What holds for every test: nothing of the person who runs them gets in, and nothing of theirs gets out."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TESTS = Path(__file__).parent
# Each test of tests/cluster starts a cluster, which takes seconds: only these files are in the quick suite.
QUICK_OF_CLUSTER = frozenset({"test_documented_exchanges.py", "test_fan_out.py", "test_stopping.py"})
# What `-n 2` runs beside all the others: storms and escapes, which wait most of the time and must not care who is
# faster, and simulated lives, which stand behind the others. Of any two at a time, some fail now and then.
BESIDE = ("tests/faults/", "tests/simulation/", "tests/zoo/")


class _Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Two rows of tests, each in its order."""

    def _split_scope(self, nodeid: str) -> str:
        return "beside" if nodeid.startswith(BESIDE) else "main"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Have ``-n 2`` mean these rows; a ``--dist`` of one's own stays what it is."""
    return _Lanes(config, log) if config.getvalue("dist") == "load" else None


def pytest_configure() -> None:
    """Have the signals of the keyboard, which a shell has ignored by all that it starts with `&`.

    Children would inherit that, and a shell cannot trap what was ignored when it began.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the quick suite leaves out of tests/cluster."""
    for item in items:
        place = item.path.relative_to(TESTS)
        if place.parts[0] == "cluster" and place.name not in QUICK_OF_CLUSTER:
            item.add_marker(pytest.mark.ci)


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings() -> Iterator[None]:
    """Hide the person's settings, and put every user directory in a temporary one, for child processes too.

    The directory has a short path of its own: sockets below it may have 107 bytes.
    """
    place = Path(tempfile.mkdtemp(prefix="hostler-"))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HOSTLER_")]:
            patch.delenv(name)
        # A worker looks whether podman can be used, in the host's own storage; tests that want it say so.
        patch.setenv("HOSTLER_PODMAN", "")
        for kind in ("CONFIG", "DATA", "STATE", "CACHE", "RUNTIME"):
            folder = place / kind.lower()
            folder.mkdir(mode=0o700)
            patch.setenv("XDG_RUNTIME_DIR" if kind == "RUNTIME" else f"XDG_{kind}_HOME", str(folder))
        yield
    shutil.rmtree(place, ignore_errors=True)
