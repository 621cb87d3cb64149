"""Imports run one way; import_rules.py says which, and here the rules meet the project and a few known mistakes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture import import_rules as rules
from tests.architecture.import_graph import ImportGraph
from tests.architecture.sources import PACKAGES, package_sources, read_tree


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    """The imports of the four packages."""
    return ImportGraph(package_sources())


def test_the_packages_were_found(graph: ImportGraph) -> None:
    """A rule that looks at nothing always holds; make sure that there was something to look at."""
    assert set(PACKAGES) <= set(graph.modules_within(PACKAGES))


def test_hostler_imports_none_of_the_others_and_they_never_import_each_other(graph: ImportGraph) -> None:
    """Imports run towards hostler only."""
    assert rules.check_package_borders(graph) == []


def test_imports_are_absolute(graph: ImportGraph) -> None:
    """A module's imports read the same wherever it stands."""
    assert graph.relative == []


def test_no_modules_import_each_other_in_a_circle(graph: ImportGraph) -> None:
    """A circle is an error of design, also when a lazy import hides it."""
    assert graph.cycles() == []


def test_protobuf_types_stay_at_the_wire(graph: ImportGraph) -> None:
    """Only the translation, the client, the servicers and the agent's link see messages."""
    assert rules.check_protobuf(graph) == []


def test_pure_modules_reach_no_clock_no_chance_and_no_io(graph: ImportGraph) -> None:
    """What decides takes the world as arguments, also through the modules it imports."""
    assert rules.check_purity(graph) == []


def test_the_processes_that_own_jobs_reach_only_the_standard_library_and_psutil(graph: ImportGraph) -> None:
    """Launcher and shim outlive the agent and must never hold gRPC's threads."""
    assert rules.check_standard_library(graph) == []


def test_an_api_module_never_imports_another(graph: ImportGraph) -> None:
    """Each documented API can be read, changed and removed by itself."""
    assert rules.check_api_modules(graph) == []


def test_the_environment_is_read_in_one_place() -> None:
    """Every setting can be found in hostler/settings.py."""
    assert rules.check_environment(package_sources()) == []


def test_structlog_is_configured_in_one_place() -> None:
    """All processes log alike."""
    assert rules.check_log_configuration(package_sources()) == []


MISTAKES: dict[str, tuple[Callable[[ImportGraph], list[str]], dict[str, str]]] = {
    "hostler imports the coordinator": (rules.check_package_borders, {"hostler/ids.py": "import coordinator.engine"}),
    "the gateway imports the agent": (
        rules.check_package_borders,
        {"http_gateway/app.py": "def late():\n    from worker_agent import link"},
    ),
    "a package imports the tests": (rules.check_package_borders, {"coordinator/app.py": "import tests.support"}),
    "the engine sees messages": (rules.check_protobuf, {"coordinator/engine.py": "from hostler.v1 import jobs_pb2"}),
    "a module below `from hostler import v1`": (rules.check_protobuf, {"hostler/jobs.py": "from hostler import v1"}),
    "a pure module reads the clock": (rules.check_purity, {"coordinator/live.py": "import time"}),
    "a pure module reaches os by another": (
        rules.check_purity,
        {"coordinator/placement.py": "from hostler import disks", "hostler/disks.py": "from os.path import join"},
    ),
    "a pure module reaches asyncio by its package": (
        rules.check_purity,
        {"coordinator/__init__.py": "import asyncio", "coordinator/live.py": ""},
    ),
    "the shim reaches grpc": (
        rules.check_standard_library,
        {"worker_agent/shim.py": "import worker_agent.pipes", "worker_agent/pipes.py": "import grpc.aio"},
    ),
    "a script's module needs psutil": (rules.check_standard_library, {"hostler/script.py": "import psutil"}),
    "an API module imports another": (
        rules.check_api_modules,
        {"http_gateway/apis/pixyz.py": "from http_gateway.apis.altron import API", "http_gateway/apis/altron.py": ""},
    ),
    "two modules import each other": (
        ImportGraph.cycles,
        {"hostler/a.py": "from hostler import b", "hostler/b.py": "def late():\n    import hostler.a"},
    ),
    "a relative import": (lambda graph: graph.relative, {"hostler/a.py": "from . import b", "hostler/b.py": ""}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_rule_finds_the_mistake_it_is_for(mistake: str, tmp_path: Path) -> None:
    """A tree with one known mistake gives exactly one line."""
    check, files = MISTAKES[mistake]
    _write(tmp_path, files)

    found = check(ImportGraph(read_tree(tmp_path, PACKAGES)))

    assert len(found) == 1, found


@pytest.mark.parametrize("line", ["home = os.environ['HOME']", "home = os.getenv('HOME')", "from os import environ"])
def test_each_way_to_read_the_environment_is_found(line: str, tmp_path: Path) -> None:
    """Outside settings and launcher it is found; inside settings it is allowed."""
    _write(tmp_path, {"coordinator/app.py": line, "hostler/settings.py": line})

    assert len(rules.check_environment(read_tree(tmp_path, PACKAGES))) == 1


def test_a_second_log_configuration_is_found(tmp_path: Path) -> None:
    """It is allowed in hostler/logs.py and nowhere else."""
    _write(tmp_path, {"coordinator/app.py": "structlog.configure()", "hostler/logs.py": "structlog.configure()"})

    assert len(rules.check_log_configuration(read_tree(tmp_path, PACKAGES))) == 1


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
