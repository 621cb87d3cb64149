"""What the coordinator's word to run an attempt means on this worker, whose own policy has the last one.

Many attempts of a batch are to run the very same: for those that come in a row it is found out once.
Limits: knows protobuf, and nothing of streams and of what is held.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from hostler import __version__, logs
from hostler.jobs import Work
from hostler.v1 import types_pb2, workers_pb2
from hostler.wire.work import work_from_proto, work_to_bytes
from worker_agent.attempts import Order
from worker_agent.local_policy import Policy, Refusal, decide, refuses_always
from worker_agent.reports import StartCommand


class _Meaning(NamedTuple):
    """What a work means, whichever attempt it is for."""

    order: Order  # with no key
    digest: bytes
    work: Work | None  # set: it needs a workspace
    refusal: Refusal | None


class Starts:
    """Understands one `Start` after another."""

    def __init__(self, policy: Policy | None = None, *, redact: bool = True) -> None:
        """With *redact* the values of an attempt's secrets are taken out of its log."""
        self._policy = policy if policy != Policy() else None  # None: anything is taken
        self._redact = redact
        self._latest: tuple[tuple[bytes, str, int], _Meaning] | None = None  # what it was found out of, and what it is

    def understood(self, start: workers_pb2.Start, *, term: int = 1) -> StartCommand:
        """What is to be run, under this *term* of the lease.

        What a newer coordinator says in words that are not known here is refused, and ends no agent.
        """
        key = text_of(start.key)
        try:
            order, digest, work, refusal = self._meaning(start, term)
        except (DecodeError, ValueError, TypeError) as error:
            reason = f"this worker (hostler {__version__}) does not understand what it is to run: {error}"
            logs.get().warning("attempt.refused", attempt=key, reason=reason)
            return StartCommand(start.sequence, Order(key, ()), start.slots, _digest(start.work), refusal=reason)
        if refusal is not None:
            said = {"rule": refusal.rule, "reason": refusal.reason, "workload": start.workload}
            logs.get().warning("policy.refused", attempt=key, **said)
        within_s = start.start_within_s
        return StartCommand(
            start.sequence,
            Order(key, *order[1:]),
            start.slots,
            digest,
            work,
            str(refusal) if refusal is not None else "",
            time.monotonic() + within_s if within_s else 0.0,
        )

    def _meaning(self, start: workers_pb2.Start, term: int) -> _Meaning:
        if start.secrets:
            return self._found_out(start, term)  # and not kept: secrets are for their attempt alone
        asked = (start.work, start.workload, term)
        if self._latest is None or self._latest[0] != asked:
            self._latest = asked, self._found_out(start, term)
        return self._latest[1]

    def _found_out(self, start: workers_pb2.Start, term: int) -> _Meaning:
        work, policy = types_pb2.Work.FromString(start.work), self._policy
        refusal: Refusal | None = None
        needs_workspace = work.workspace or work.files or work.stdin_path or work.result_stdout
        needs_workspace = needs_workspace or any(work.HasField(name) for name in ("python", "container", "service"))
        if policy is not None:
            decided = decide(policy, work_from_proto(work), start.workload, tuple(start.secrets))
            if isinstance(decided, Refusal):
                refusal = decided
            else:
                work = types_pb2.Work.FromString(work_to_bytes(decided))
        elif needs_workspace or work.env or start.secrets:
            refusal = refuses_always(work_from_proto(work), start.secrets)
        if start.secrets:
            logs.register_secrets(start.secrets.values())
        order = Order(
            key="",
            argv=tuple(work.argv),
            env={**work.env, **start.secrets} if start.secrets else dict(work.env),
            cwd=work.cwd,
            timeout_s=work.timeout_s,
            grace_s=work.grace_s,
            output_bytes_max=work.output_bytes_max,
            leftovers_wait=work.leftovers_wait,
            stdin=work.stdin,
            start_path=work.start_path,
            merge=work.merge,
            output_stop=work.output_stop,
            limits=_bounds(work) if work.HasField("limits") else (),
            lease=term if work.loss_policy == "stop" else 0,
            masked=tuple(start.secrets) if self._redact and start.secrets else (),
        )
        if work.HasField("terminal"):
            order = _with_terminal(order, work.terminal)
        return _Meaning(order, _digest(start.work), work_from_proto(work) if needs_workspace else None, refusal)


def text_of(key: types_pb2.AttemptKey) -> str:
    """Return an attempt's name as the agent writes it."""
    return f"{key.job}.{key.stage}.{key.attempt}"


def _digest(work: bytes) -> bytes:
    return hashlib.sha256(work).digest()[:16]


def _bounds(work: types_pb2.Work) -> Sequence[float]:
    """What the shim is to keep; of a container podman keeps it."""
    limits = work.limits
    bounds = (limits.memory_bytes, limits.cpus, limits.pids)
    return bounds if any(bounds) and not work.HasField("container") else ()


def _with_terminal(order: Order, terminal: types_pb2.Terminal) -> Order:
    env = {"TERM": terminal.term, **order.env} if terminal.term else order.env
    return order._replace(terminal=(terminal.rows, terminal.columns), env=env)
