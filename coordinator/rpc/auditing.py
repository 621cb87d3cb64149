"""What of each RPC goes into the audit log, and under which names.

Calls that change something are noted, allowed or not; of those that only read, the refused ones. Of what was
submitted there is a count and a digest, never a content; of an error of the caller's its kind, because its text may
quote him.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from coordinator.access import WORKER_PREFIX
from coordinator.audit import AuditLog
from coordinator.events import Report
from coordinator.rpc.context import Caller, Context
from hostler.audit import ALLOWED, REFUSED
from hostler.errors import HostlerError, PermissionDenied, Unauthenticated
from hostler.keys import INVITATION_PREFIX, read_key
from hostler.policy import KEY_PREFIX

# Calls that change something, each with what it is about. `Files/Put` is noted for its digest.
CHANGING: dict[str, Callable[[Any, Any], str]] = {
    "Jobs/Stop": lambda request, _: request.id,
    "Jobs/Retry": lambda request, _: _several(request.ids),
    "Jobs/Signal": lambda request, _: request.id,
    "Jobs/Feed": lambda request, _: request.id,
    "Records/Put": lambda request, _: request.record.id,
    "Files/Put": lambda *_: "",
    "Workloads/Apply": lambda request, _: ", ".join(each.name for each in request.workloads),
    "Workloads/Remove": lambda request, _: request.name,
    "Cluster/DrainWorker": lambda request, _: request.worker,
    "Cluster/ResumeWorker": lambda request, _: request.worker,
    "Cluster/ReleaseWorker": lambda request, _: request.worker,
    "Access/CreateKey": lambda _, answer: answer.key.id if answer is not None else "",
    "Access/RevokeKey": lambda request, _: request.id,
    "Access/Invite": lambda _, answer: _invitation(answer.token) if answer is not None else "",
    "Access/Join": lambda request, answer: answer.worker if answer is not None else request.name,
    "Access/Renew": lambda _, answer: answer.worker if answer is not None else "",
    "Access/RevokeWorker": lambda request, _: request.worker,
}
SUBMIT = "Jobs/Submit"
# Calls that only read, or that carry what another call was noted for.
READING = frozenset(
    {
        "Jobs/Get", "Jobs/Explain", "Jobs/List", "Jobs/Wait", "Jobs/Watch", "Jobs/ReadLog", "Jobs/ListOutputs",
        "Jobs/ReadOutput", "Jobs/ReadArchive", "Records/Find", "Files/Read", "Workloads/Get", "Workloads/List",
        "Cluster/ListWorkers", "Cluster/Describe", "Cluster/Metrics", "Access/ListKeys", "Access/Authenticate",
        "Access/ReadAudit",
        "Access/NoteRefusals",
        "Workers/Connect", "Workers/PushLog", "Workers/SendOutput",
    }
)  # fmt: skip
# What ends or takes away works also while the log cannot be written.
ENDING = frozenset(
    {
        "Jobs/Stop", "Jobs/Signal", "Jobs/Feed", "Cluster/DrainWorker", "Cluster/ReleaseWorker", "Access/RevokeKey",
        "Access/RevokeWorker", "Workloads/Remove", "Files/Put", "Access/Renew",
    }
)  # fmt: skip
# Who may do what is changed by these: they are answered once their entry is on the disk.
DURABLE = frozenset(
    {
        "Access/CreateKey", "Access/RevokeKey", "Access/Invite", "Access/Join", "Access/Renew", "Access/RevokeWorker",
        "Workloads/Apply", "Workloads/Remove", "Cluster/DrainWorker", "Cluster/ResumeWorker", "Cluster/ReleaseWorker",
    }
)  # fmt: skip


class Auditing:
    """Notes calls as they end."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def check(self, name: str) -> None:
        """Refuse a call that makes something new while nobody can note it.

        Raises:
            Unavailable: try again later.
        """
        if name == SUBMIT or (name in CHANGING and name not in ENDING):
            self._log.check()

    def answered(self, name: str, caller: Caller | None, context: Context, request: Any, answer: Any) -> None:
        """Note a call that was served, before its answer leaves; see `settled`."""
        if name == SUBMIT and caller is not None:
            self._note_submit(caller, context, request, answer)
        elif name in CHANGING and not (name == "Files/Put" and request.output):
            decision = REFUSED if name == "Jobs/Retry" and not _accepted(answer) and request.ids else ALLOWED
            self._note(name, decision, caller, context, request, answer, _detail(name, request, answer))

    async def settled(self, name: str) -> None:
        """Wait until the entry of a call that changes who may do what is on the disk.

        Raises:
            Unavailable: it is done, and could not be written yet.
        """
        if name in DURABLE:
            await self._log.settled()

    def failed(self, name: str, caller: Caller | None, context: Context, request: Any, error: HostlerError) -> None:
        """Note a call that was not served; of calls that read only who was turned away."""
        is_denial = isinstance(error, (PermissionDenied, Unauthenticated))
        if is_denial or name in CHANGING or name == SUBMIT:
            detail = f"{error.code.value}: {error.message}" if is_denial else error.code.value
            self._note(name, REFUSED, caller, context, request, None, detail)

    def broken_off(self, name: str, caller: Caller | None, context: Context, request: Any) -> None:
        """Note a call that ended without an answer: what it asked for may be done."""
        if request is not None and (name in CHANGING or name == SUBMIT):
            detail = "no answer was given; it may be done"
            if caller is not None and name == SUBMIT:
                detail += f", sha256 of the call {hashlib.sha256(caller.content).hexdigest()}"
            self._note(name, ALLOWED, caller, context, request, None, detail)

    def worker_refused(self, worker: str, reports: Sequence[Report]) -> None:
        """Note which of what a worker was sent it will not run, and why."""
        for report in reports:
            if report.refusal and report.never_ran:
                who = WORKER_PREFIX + worker
                self._log.note("worker/Refuse", REFUSED, principal=who, target=str(report.key), detail=report.refusal)

    def _note(
        self, name: str, decision: str, caller: Caller | None, context: Context, request: Any, answer: Any, detail: str
    ) -> None:
        about = CHANGING.get(name)
        target = about(request, answer) if about is not None and request is not None else ""
        principal, credential, address = _who(caller, context)
        if caller is None and name == "Access/Join" and request is not None:
            credential = _invitation(request.token)
            principal = f"invitation:{credential}" if credential else ""
        elif name == "Access/Authenticate" and request is not None:
            address = request.address or address  # of the gateway's caller, who showed the key
            shown = read_key(request.text)
            credential = shown.id if shown is not None else ""
        self._log.note(
            name,
            decision,
            principal=principal,
            credential=credential,
            address=address,
            target=target,
            detail=detail,
        )

    def _note_submit(self, caller: Caller, context: Context, request: Any, answer: Any) -> None:
        """One entry for a call, or, of a gateway's, one for each of those for whom it asks."""
        digest = hashlib.sha256(caller.content).hexdigest()
        connection = _who(caller, context)
        groups: dict[str, Sequence[Any]] = {}
        asked = {job.principal for job in request.jobs} if caller.may_assert else {""}
        if len(asked) == 1:
            groups[asked.pop()] = answer.results
        else:
            split: dict[str, list[Any]] = {}
            for job, result in zip(request.jobs, answer.results, strict=True):
                split.setdefault(job.principal, []).append(result)
            groups |= split or {"": answer.results}
        for asserted, results in groups.items():
            name, credential, address = connection
            if asserted and asserted != caller.principal.name:
                credential = asserted.removeprefix(KEY_PREFIX)
                try:
                    name = caller.acting_for(asserted).name
                except HostlerError:
                    name = ""
            accepted = [job_id for result in results if (job_id := result.id)]
            lacking = len(results) - len(accepted)
            more = f" and {len(accepted) - 1} more" if len(accepted) > 1 else ""
            self._log.note(
                SUBMIT,
                ALLOWED if accepted or not results else REFUSED,
                principal=name,
                credential=credential,
                address=address,
                target=f"{accepted[0]}{more}" if accepted else "",
                detail=f"{len(accepted)} accepted, {lacking} refused, sha256 of the call {digest}"
                + (f": {_codes(results)}" if lacking else ""),
            )


def _codes(results: Sequence[Any]) -> str:
    return ", ".join(sorted({result.error.code for result in results if not result.id})[:5])


def _accepted(answer: Any) -> list[str]:
    return [result.id for result in answer.results if result.id]


def _several(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"{ids[0][:64]}{more}" if ids else ""


def _detail(name: str, request: Any, answer: Any) -> str:
    if name == "Workloads/Apply":
        return f"sha256 {hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()}"
    if name == "Access/CreateKey":
        return f"owner {request.owner or request.name}, scopes {','.join(request.scopes)}"
    if name == "Jobs/Signal":
        return f"signal {request.signal}"
    if name == "Jobs/Retry" and answer is not None:
        accepted, lacking = _accepted(answer), len(request.ids) - len(_accepted(answer))
        ids = f", as {_several(accepted)}" if accepted else ""
        return f"{len(accepted)} accepted{ids}; {lacking} refused" + (f": {_codes(answer.results)}" if lacking else "")
    return ""


def _who(caller: Caller | None, context: Context) -> tuple[str, str, str]:
    """The principal's name, its credential, and the address of a call."""
    address = unquote(context.peer())
    address = "unix" if address.startswith("unix") else address.partition(":")[2].rpartition(":")[0].strip("[]")
    if caller is None:
        return "", "", address
    principal = caller.asked or caller.principal
    return principal.name, principal.credential, address


def _invitation(text: str) -> str:
    """The public part of an invitation."""
    token = read_key(text, INVITATION_PREFIX)
    return token.id if token is not None else ""
