"""Makes what the engine decides on out of an item of a submit call.

An item that names a workload, or has parameters or files, is completed first: the workload's
definition, the parameters checked against its schema, the stored bytes it needs touched so that they
stay. What cannot be is the item's own error and no other's.
"""

import asyncio
import hashlib
from typing import cast

from coordinator.blobs import BlobStore
from coordinator.decisions import Submission
from coordinator.engine import Engine
from coordinator.rpc.context import Caller
from coordinator.secrets_file import Secrets
from coordinator.storage.protocol import Store
from hostler.errors import FileNotFound, HostlerError, InvalidRequest, WorkloadNotFound
from hostler.expansion import complete, expand
from hostler.jobs import JobSpec, check_spec
from hostler.v1 import types_pb2
from hostler.wire.jobs import spec_from_proto
from hostler.wire.work import work_to_proto
from hostler.workloads import Runtime, Workload


def submission(message: types_pb2.JobSpec, job_id: str, caller: Caller) -> Submission:
    """Check an ordinary item: a command."""
    # The message has the fields of a JobSpec under the same names: checking it as it is saves building one for
    # each of thousands of items, a third of this function's time.
    error = check_spec(cast(JobSpec, message))
    owner = message.owner or caller.acting_for(message.principal)
    family = message.family or "native"
    slots = 0 if message.slotless else (message.slots or 1)
    labels = tuple(sorted(message.labels.items())) if message.labels else ()
    work = message.work.SerializeToString(deterministic=True)
    digest = b""
    if message.key:
        seen = repr((message.name, owner, family, message.worker, labels, message.priority, slots))
        digest = hashlib.sha256(work + seen.encode()).digest()
    return Submission(
        error,
        job_id,
        owner,
        family,
        message.name,
        message.key,
        digest,
        message.worker,
        labels,
        message.priority,
        slots,
        work,
    )


class Submissions:
    """Makes items that say more than a command."""

    def __init__(self, engine: Engine, store: Store, blobs: BlobStore, secrets: Secrets) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._secrets = secrets

    async def make(self, message: types_pb2.JobSpec, job_id: str, caller: Caller) -> Submission:
        """Complete and check an item; what is wrong with it is in its `error`."""
        plain = submission(message, job_id, caller)
        if message.key:
            # Of what was asked, not of what a definition makes of it today.
            asked = types_pb2.JobSpec()
            asked.CopyFrom(message)
            asked.ClearField("principal")
            asked.owner = plain.owner
            plain = plain._replace(digest=hashlib.sha256(asked.SerializeToString(deterministic=True)).digest())
        if plain.error is not None:
            return plain
        try:
            return await self._complete(plain, spec_from_proto(message))
        except HostlerError as error:
            return plain._replace(error=error)

    async def _complete(self, plain: Submission, spec: JobSpec) -> Submission:
        workload = await self._workload(spec) if spec.workload else None
        if workload is None:
            completed = complete(spec, plain.id)
        elif workload.params_schema:
            # A schema may take its time over parameters; nobody else is to wait for that.
            completed = await asyncio.to_thread(expand, workload, spec, plain.id)
        else:
            completed = expand(workload, spec, plain.id)
        if isinstance(completed, HostlerError):
            raise completed
        error = check_spec(completed)
        if error is not None:
            raise error
        inputs = tuple(sorted({file.digest for file in completed.work.files if file.digest}))
        missing = await self._blobs.touch(inputs)
        if missing:
            named = next(file.path for file in completed.work.files if file.digest in missing)
            raise FileNotFound(f"the bytes of {named!r} are not stored (any more); store them again", field="files")
        secrets = tuple(sorted(workload.secrets.items())) if workload is not None else ()
        if secrets:
            self._secrets.values(secrets)
        python = completed.work.python is not None
        return plain._replace(
            labels=tuple(sorted(completed.labels.items())),
            slots=completed.slots,
            work=work_to_proto(completed.work).SerializeToString(deterministic=True),
            runtime=Runtime.PYTHON.value if python else Runtime.COMMAND.value,
            workload=spec.workload,
            workload_version=workload.version if workload is not None else 0,
            retries=completed.retries or 0,
            retry_on=completed.retry_on,
            inputs=inputs,
            secrets=secrets,
        )

    async def _workload(self, spec: JobSpec) -> Workload:
        newest = self._engine.live.workloads.get(spec.workload)
        if newest is None:
            raise WorkloadNotFound(
                f"there is no workload {spec.workload[:100]!r}; see those there are with: hostler workloads list",
                field="workload",
            )
        if spec.workload_version in (0, newest.version):
            found: Workload | None = newest
        else:
            found = await self._store.get_workload(spec.workload, spec.workload_version)
        if found is None:
            raise WorkloadNotFound(
                f"workload {spec.workload} has no version {spec.workload_version}", field="workload_version"
            )
        if not found.external:
            raise InvalidRequest(f"workload {spec.workload} only runs as a later stage of a chain", field="workload")
        return found
