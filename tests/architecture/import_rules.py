"""The import rules of the project, as values, and the checks that read them.

Each check takes a graph or the sources and returns one line per violation, so that the tests can run it on the
project and also on small trees with a known mistake in them. A module named here that does not exist (yet) is
simply not there to break its rule.
"""

import ast
import sys
from collections.abc import Iterable

from tests.architecture.import_graph import ImportGraph
from tests.architecture.sources import GENERATED, OTHER_FOLDERS, PACKAGES, Source, is_within

# Which of our top-level names a package may import, itself aside.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "hostler": frozenset(),
    "coordinator": frozenset({"hostler"}),
    "worker_agent": frozenset({"hostler"}),
    "http_gateway": frozenset({"hostler"}),
}

# Everybody else sees frozen values; a message type that travels further ties the code to the wire.
PROTOBUF = (GENERATED, "google.protobuf")
MAY_SEE_PROTOBUF = (
    "hostler.wire",
    "hostler.client",
    "hostler.files_client",
    "hostler.workloads_client",
    "hostler.records_client",
    "hostler.access_client",
    "hostler.explanation_client",
    "hostler.feeding",
    "coordinator.rpc",
    "worker_agent.link",
    "worker_agent.log_push",
    "worker_agent.output_send",
    "worker_agent.starts",
)

# Pure modules take time, chance and the world as arguments: the simulation runs them as they are.
PURE = (
    "hostler.lifecycle",
    "hostler.jobs",
    "hostler.job_checks",
    "hostler.ids",
    "hostler.errors",
    "hostler.frames",
    "hostler.shape",
    "hostler.stages",
    "hostler.selectors",
    "hostler.job_filters",
    "hostler.container_checks",
    "hostler.workloads",
    "hostler.policy",
    "hostler.proxies",
    "hostler.keys",
    "hostler.expansion",
    "hostler.secret_checks",
    "hostler.asked",
    "hostler.awaited",
    "hostler.causes",
    "hostler.explanation",
    "hostler.log_losses",
    "hostler.pending",
    "hostler.script_source",
    "hostler.state_text",
    "hostler.wording",
    "coordinator.access",
    "coordinator.access_decisions",
    "coordinator.access_live",
    "coordinator.admissions",
    "coordinator.joining",
    "coordinator.live",
    "coordinator.capacity",
    "coordinator.ends",
    "coordinator.recalls",
    "coordinator.refusals",
    "coordinator.losses",
    "coordinator.drains",
    "coordinator.quarantine",
    "coordinator.places",
    "coordinator.workload_decisions",
    "coordinator.retention_decisions",
    "coordinator.decisions",
    "coordinator.pending",
    "coordinator.standings",
    "coordinator.start_deadlines",
    "coordinator.placement",
    "coordinator.changes",
    "worker_agent.reports",
    "worker_agent.attempts",
    "worker_agent.advances",
    "worker_agent.local_policy",
)
IMPURE = ("asyncio", "time", "random", "os", "sqlite3", "grpc", "aiohttp", "structlog")

# The processes that own running jobs must start fast, stay small and never hold gRPC's threads;
# what a job's own script imports must not need anything installed. Foreign modules they may reach, the library aside.
STANDARD_LIBRARY_AND: dict[str, frozenset[str]] = {
    "worker_agent.launcher": frozenset({"psutil"}),
    "worker_agent.shim": frozenset({"psutil"}),
    "worker_agent.process_tree": frozenset({"psutil"}),
    "worker_agent.ledger": frozenset({"psutil"}),
    "hostler.script": frozenset(),
    "worker_agent.runtimes.service_call": frozenset(),
}

# One document, one module: what two of them share belongs in http_gateway/api.py or bodies.py.
API_MODULES = "http_gateway.apis"

# The launcher copies it as the base environment of jobs; every setting is read in one place.
MAY_READ_ENVIRONMENT = (
    "hostler.settings",
    "worker_agent.launcher",
    "hostler.script",
    "worker_agent.runtimes.service_call",  # a job's program
)
ENVIRONMENT_NAMES = ("environ", "environb", "getenv", "getenvb")

MAY_CONFIGURE_STRUCTLOG = ("hostler.logs",)


def check_package_borders(graph: ImportGraph) -> list[str]:
    """Imports from a package of ours into one it may not know, or into tests, scripts and benchmarks."""
    ours = frozenset(PACKAGES + OTHER_FOLDERS)
    bad = []
    for one in graph.imports:
        importer, imported = one.importer.split(".")[0], one.imported.split(".")[0]
        allowed = MAY_IMPORT.get(importer)
        if allowed is not None and imported in ours and imported != importer and imported not in allowed:
            bad.append(f"{one.where}: {one.importer} imports {one.imported}")
    return bad


def check_protobuf(graph: ImportGraph) -> list[str]:
    """Imports of message types outside the few modules that translate them."""
    return [
        f"{one.where}: {one.importer} imports {one.imported}"
        for one in graph.imports
        if any(is_within(one.imported, name) for name in PROTOBUF)
        and not any(is_within(one.importer, name) for name in MAY_SEE_PROTOBUF)
    ]


def check_purity(graph: ImportGraph) -> list[str]:
    """Ways from a pure module to something that acts, through our own modules."""
    return [
        chain
        for module in graph.modules_within(PURE)
        for foreign, chain in graph.reachable_foreign(module).items()
        if any(is_within(foreign, name) for name in IMPURE)
    ]


def check_standard_library(graph: ImportGraph) -> list[str]:
    """Ways from a module that must run on the standard library to something else, through our own modules."""
    return [
        chain
        for name, allowed in STANDARD_LIBRARY_AND.items()
        for module in graph.modules_within([name])
        for foreign, chain in graph.reachable_foreign(module).items()
        if foreign.split(".")[0] not in sys.stdlib_module_names | allowed
    ]


def check_api_modules(graph: ImportGraph) -> list[str]:
    """Imports from one API module into another, or into the package that lists them all."""
    return [
        f"{one.where}: {one.importer} imports {one.imported}"
        for one in graph.imports
        if one.importer.startswith(API_MODULES + ".")
        and is_within(one.imported, API_MODULES)
        and one.imported != one.importer
    ]


def check_environment(sources: Iterable[Source]) -> list[str]:
    """Places that read the process environment and are not allowed to."""
    bad: list[str] = []
    for source in sources:
        if any(is_within(source.module, name) for name in MAY_READ_ENVIRONMENT):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                line, names = node.lineno, [node.attr]
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                line, names = node.lineno, [alias.name for alias in node.names]
            else:
                continue
            bad.extend(f"{source.where}:{line}: os.{name}" for name in names if name in ENVIRONMENT_NAMES)
    return bad


def check_log_configuration(sources: Iterable[Source]) -> list[str]:
    """Places that configure structlog and are not hostler/logs.py."""
    return [
        f"{source.where}:{node.lineno}: structlog.{node.attr}"
        for source in sources
        if source.module not in MAY_CONFIGURE_STRUCTLOG
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("configure", "configure_once")
        and isinstance(node.value, ast.Name)
        and node.value.id == "structlog"
    ]
