"""Submits finished jobs again, each as a new job of the same owner that asks for the same."""

import os

from coordinator.decisions import Submission
from coordinator.engine import Engine
from coordinator.rpc.context import visible
from coordinator.rpc.disk_reserve import DiskReserve
from coordinator.rpc.submissions import Submissions, is_described, refused, submission
from coordinator.storage.protocol import Asked, Store
from hostler.errors import HostlerError, JobNotFound, NotFinished, NotRunning, TooLarge
from hostler.ids import is_uuid, new_uuid
from hostler.lifecycle import State
from hostler.policy import Principal
from hostler.v1 import jobs_pb2, types_pb2
from hostler.wire.errors import error_to_proto
from hostler.wire.jobs import spec_to_proto

RETRY_IDS_MAX = 1000


class RetryService:
    """See ``protos/hostler/v1/jobs.proto``."""

    def __init__(self, engine: Engine, store: Store, disk: DiskReserve, submissions: Submissions) -> None:
        self._engine = engine
        self._store = store
        self._disk = disk
        self._submissions = submissions

    async def retry(self, request: jobs_pb2.RetryRequest, principal: Principal) -> jobs_pb2.SubmitResponse:
        """Retry: per-item results in order, durable before the answer; each needs what submitting it would need."""
        if len(request.ids) > RETRY_IDS_MAX:
            raise TooLarge(f"{len(request.ids)} ids in one call; at most {RETRY_IDS_MAX}", field="ids")
        self._disk.check()
        asked = [await self._asked(job_id, principal) for job_id in request.ids]
        definitions = await self._submissions.known(one for one in asked if isinstance(one, types_pb2.JobSpec))
        items: list[Submission] = []
        for job_id, message in zip(request.ids, asked, strict=True):
            new_id = new_uuid(os.urandom(16))
            if isinstance(message, HostlerError):
                item = refused(types_pb2.JobSpec(), new_id, message)
            elif is_described(message):
                item = await self._submissions.make(message, new_id, principal, definitions)
            else:
                item = submission(message, new_id, principal)
            items.append(item._replace(retry_of=job_id))
        answer = jobs_pb2.SubmitResponse()
        for result in await self._engine.submit(items):
            if isinstance(result, str):
                answer.results.add(id=result)
            else:
                answer.results.add(error=error_to_proto(result))
        return answer

    async def _asked(self, job_id: str, principal: Principal) -> types_pb2.JobSpec | HostlerError:
        """What a job was made of, or why it cannot be asked for again."""
        found = await self._store.get_asked(job_id) if is_uuid(job_id) else None
        try:
            job = visible(found.job if found is not None else None, job_id, principal)
        except JobNotFound as error:
            return error
        if job.state is not State.FINISHED:
            return NotFinished(f"job {job_id} is {job.state.word}; stop it or wait for its end, and then retry it")
        if job.spec.work.stdin:
            return NotRunning(
                f"the standard input of job {job_id} was fed to it and is not kept; submit it again with its input"
            )
        assert found is not None
        return _message(found) or NotRunning(
            f"job {job_id} was accepted by an earlier version, which did not keep what was asked; submit it again"
        )


def _message(found: Asked) -> types_pb2.JobSpec | None:
    """The same submission once more; None when it is not known in full."""
    if found.asked:
        return types_pb2.JobSpec.FromString(found.asked)
    message = spec_to_proto(found.job.spec)
    message.ClearField("key")
    return None if is_described(message) else message
