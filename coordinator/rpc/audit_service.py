"""The part of the service Access that reads the audit log."""

from collections.abc import AsyncIterator

from coordinator.audit import AuditLog
from hostler.audit import Entry
from hostler.policy import Principal
from hostler.v1 import access_pb2

ENTRIES_PER_READ = 500
NUMBER_MAX = 2**63 - 1


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


def _to_proto(entry: Entry) -> access_pb2.AuditEntry:
    return access_pb2.AuditEntry(**entry._replace(hash="")._asdict() | {"hash": bytes.fromhex(entry.hash)})
