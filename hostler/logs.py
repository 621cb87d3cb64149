"""Structured logs: one line an event, stable names, to standard error.

The only module that configures structlog. Event names are ``noun.past_tense`` and registered in
`EVENTS`; a test checks that every name used in the code stands there, and ``docs/logs.md`` is
written from it.
"""

import logging
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from hostler.redaction import Values

# structlog.dev imports rich where it is installed, only to format tracebacks we never print with it:
# 0.2 s of every program's start and 6 MB of its memory. For that import alone, rich is not there.
_rich = sys.modules.get("rich")
if _rich is None:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]

EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "coordinator.started": "The coordinator serves; fields: where it listens, what it loaded.",
        "workload.not_applied": "The workloads that ship with hostler could not be stored; the next start tries again.",
        "workload.applied": "A workload found at the start became a new version.",
        "coordinator.stopped": "The coordinator has ended in order.",
        "store.commit_failed": "A commit was rolled back; its batch was refused and the live set was loaded again.",
        "store.broken": "The outcome of a commit is unknown; the process ends and loads again.",
        "engine.failed": "The engine ended by a fault of hostler's own; the process ends and loads again.",
        "worker.connected": "A worker's control stream is reconciled.",
        "worker.unreachable": "A worker's stream ended without a goodbye.",
        "worker.left": "A worker said goodbye.",
        "worker.superseded": "A newer connection speaks for this worker.",
        "job.lost": "An attempt ended as lost because its worker stayed away.",
        "retention.removed": "Files, logs or all of finished jobs were removed, by age or by size; how much of each.",
        "retention.failed": "Removing files failed; it is tried again in a minute.",
        "log.unreadable": "What is left of an attempt's log cannot be read on its worker; it is given up.",
        "log.refused": "A pushed piece of log did not follow on what is held.",
        "access.refused": "Somebody was turned away: what was wanted, why not, and who it was.",
        "request.failed": "A call ended with a fault of hostler's own.",
        "audit.failed": "The audit log cannot be written; new work is refused until it can.",
        "audit.kept": "Old files of the audit log cannot be removed; that is tried again in an hour.",
        "audit.recovered": "The audit log is written again, and nothing of it was lost.",
        "request.refused": "A caller without the right to call was turned away.",
        "agent.started": "The worker agent runs; what it found from an earlier run.",
        "agent.joined": "The worker has joined a cluster on another host; its id, and the end of its certificate.",
        "agent.not_joined": "The coordinator where the worker is to join does not answer; it goes on trying.",
        "agent.renewed": "The worker has a new certificate.",
        "agent.not_renewed": "The worker's certificate could not be renewed; it is tried again.",
        "agent.stopped": "The worker agent has ended in order.",
        "agent.draining": "The worker takes no new work, and why; without a reason: it takes work again.",
        "agent.left_unkillable": "A worker that was to end its jobs left some whose processes cannot be killed.",
        "link.connected": "The agent's control stream is up and reconciled.",
        "link.older_coordinator": "A coordinator spoke whose epoch is older than one heard before; it is not heard.",
        "link.lost": "The agent's control stream broke; it will try again.",
        "attempt.refused": "The worker will not run an attempt.",
        "policy.refused": "The worker's own policy forbids an attempt; the rule, and why.",
        "attempt.unkillable": "A process of a tree cannot be ended.",
        "workspace.failed": "A workspace could not be made or collected by a fault of hostler's own.",
        "workspace.kept": "A workspace of an attempt that is over cannot be removed; the next agent tries again.",
        "podman.found": "Podman can be used; its version, and the options it needs on this host.",
        "podman.unusable": "Podman is there and cannot be used, so the worker offers no containers; why.",
        "container.kept": "What is left of a container cannot be removed.",
        "service.started": "A service that attempts call answers.",
        "service.died": "A service ended by itself; it is started again.",
        "service.failed": "A service could not be started.",
        "service.stopped": "A service that nobody calls was stopped.",
        "shim.died": "A shim ended without being told to.",
        "shim.held": "A shim that its own job traced, or had stopped, was let go on.",
        "callback.received": "Somebody posted an object to /dev/callback; it is printed here.",
        "certificate.unusable": "A changed certificate cannot be served with; the one before is served on.",
        "gateway.started": "The HTTP gateway serves.",
        "gateway.stopped": "The HTTP gateway has ended in order.",
    }
)


_VALUES = Values()  # of this process: what secrets it has held, so that no line of its log shows one


def register_secrets(values: Iterable[str]) -> None:
    """Take these values out of every later line of this process's log."""
    _VALUES.register(values)


def _redact(_: Any, __: str, line: Any) -> str:
    return _VALUES.redacted(line)


class _Redacting(logging.Formatter):
    """The lines of libraries that use the standard logging."""

    def format(self, record: logging.LogRecord) -> str:
        return _VALUES.redacted(super().format(record))


def configure(*, level: str, form: str, program: str) -> None:
    """Set logging up for this process.

    Args:
        level: debug, info, warning or error.
        form: "json", "text", or "auto" (text when standard error is a terminal).
        program: bound to every line.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
            _redact,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    # Libraries that use the standard logging speak only when something is wrong.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def get() -> structlog.typing.FilteringBoundLogger:
    """A logger; call it where it is used, after `configure`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
