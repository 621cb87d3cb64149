"""The part of the service Access about the audit log: it is read, and gateways add whom they turned away."""

from collections.abc import AsyncIterator

from coordinator.audit import AuditLog
from hostler.audit import REFUSED, Entry
from hostler.errors import TooLarge
from hostler.policy import Principal
from hostler.v1 import access_pb2

ENTRIES_PER_READ = 500
NUMBER_MAX = 2**63 - 1
REFUSALS_MAX = 1_000  # of one call
HTTP_PREFIX = "http/"  # of actions that no RPC has
ACTION_CHARACTERS_MAX = 100
DETAIL_CHARACTERS_MAX = 400


class AuditService:
    """See ``protos/hostler/v1/access.proto``. Who may call what has been decided before."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def read_audit(
        self, request: access_pb2.ReadAuditRequest, principal: Principal
    ) -> AsyncIterator[access_pb2.AuditEntry]:
        """ReadAudit: what is on the disk; the reader goes at his own pace, and nothing waits for him."""
        after, left = min(request.after, NUMBER_MAX), request.limit or NUMBER_MAX
        while left > 0 and (found := await self._log.read(after, min(left, ENTRIES_PER_READ))):
            for entry in found:
                yield _to_proto(entry)
            after, left = found[-1].number, left - len(found)

    async def note_refusals(
        self, request: access_pb2.NoteRefusalsRequest, principal: Principal
    ) -> access_pb2.NoteRefusalsResponse:
        """NoteRefusals: in the words of the gateway, which may also say for whom a call is."""
        if len(request.refusals) > REFUSALS_MAX:
            raise TooLarge(f"{len(request.refusals)} refusals; at most {REFUSALS_MAX} at once", field="refusals")
        for each in request.refusals:
            self._log.note(
                HTTP_PREFIX + each.action[:ACTION_CHARACTERS_MAX],
                REFUSED,
                principal=each.principal,
                credential=each.credential,
                address=each.address,
                detail=f"{each.detail[:DETAIL_CHARACTERS_MAX]} ({each.times} times)" if each.times > 1 else each.detail,
            )
        return access_pb2.NoteRefusalsResponse()


def _to_proto(entry: Entry) -> access_pb2.AuditEntry:
    return access_pb2.AuditEntry(**entry._replace(hash="")._asdict() | {"hash": bytes.fromhex(entry.hash)})
