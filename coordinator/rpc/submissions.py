"""Makes what the engine decides on out of an item of a submit call.

An item that names a workload, or has parameters or files, is completed first: the workload's
definition, the parameters checked against its schema, the stored bytes it needs touched so that they
stay. What cannot be is the item's own error and no other's.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

from coordinator.blobs import BlobStore
from coordinator.changes import Chain
from coordinator.decisions import Submission
from coordinator.ends import plan_of
from coordinator.engine import Engine
from coordinator.rpc.file_rights import FileRights
from coordinator.secrets_file import Secrets
from coordinator.storage.protocol import Store
from hostler.errors import FileNotFound, HostlerError, InvalidRequest, PermissionDenied, TooLarge, WorkloadNotFound
from hostler.expansion import check_later_stage, complete, expand
from hostler.job_checks import GIVEN_NAMES, check_command, check_spec
from hostler.jobs import STAGES_MAX, JobSpec, Stage
from hostler.policy import EVERYTHING, Principal, Scope
from hostler.secret_checks import check_secrets
from hostler.v1 import types_pb2
from hostler.wire.jobs import spec_from_proto
from hostler.workloads import Workload

Definitions = Mapping[str, Workload]  # by name


def submission(message: types_pb2.JobSpec, job_id: str, principal: Principal, *, plain: bool = True) -> Submission:
    """Make an item as it is said; a *plain* one, which is a command and nothing else, is checked too."""
    denial = denial_of(message, principal)
    if denial is not None:
        return refused(message, job_id, denial)
    # The message has the fields of a JobSpec under the same names: checking it as it is saves building one for
    # each of thousands of items, a third of this function's time.
    error = check_command(cast(JobSpec, message)) if plain else None
    owner = message.owner or principal.name
    family = message.family or "native"
    slots = 0 if message.slotless else (message.slots or 1)
    labels = tuple(sorted(message.labels.items())) if message.labels else ()
    work = message.work.SerializeToString(deterministic=True)
    tags = tuple(sorted(message.tags.items())) if message.tags else ()
    digest = b""
    if message.key:
        seen = repr((message.name, owner, family, message.worker, labels, message.priority, slots))
        if tags or message.where:
            seen += repr((tags, message.where))
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
        where=message.where,
        tags=tags,
    )


def refused(message: types_pb2.JobSpec, job_id: str, error: HostlerError) -> Submission:
    """Make an item that somebody may not have; it says nothing about anything that is there."""
    return Submission(error, job_id, "", message.family, message.name, "", b"", "", (), 0, 0, b"")


def _own_names(env: Mapping[str, str]) -> bool:
    """Whether a job sets variables besides those that a gateway gives for it."""
    return any(name not in GIVEN_NAMES for name in env)


def denial_of(message: types_pb2.JobSpec, principal: Principal) -> PermissionDenied | None:
    """Say which scope *principal* lacks for an item, or None."""
    if principal.scopes >= EVERYTHING:
        return None
    work = message.work
    wanted: list[tuple[bool, Scope, str]] = [
        (True, Scope.JOBS_SUBMIT, "a job"),
        (message.owner not in ("", principal.name), Scope.JOBS_ANY_OWNER, "a job of another owner"),
        (work.HasField("python"), Scope.JOBS_SCRIPT, "a script of one's own"),
        (
            bool(work.argv) or work.HasField("container") or work.HasField("service"),
            Scope.JOBS_COMMAND,
            "a program of one's own",
        ),
        (bool(message.secrets), Scope.SECRETS_USE, "a secret"),
        # With these a workload's program can be made to run another: a library of the job's files, or what lies there.
        (
            bool(_own_names(work.env) or work.cwd or work.start_path or message.secrets),
            Scope.JOBS_COMMAND,
            "env, secrets, cwd or start_path of one's own",
        ),
    ]
    for is_so, scope, what in wanted:
        if is_so and not principal.may(scope):
            return PermissionDenied(f"{what} needs the scope {scope}, which the caller does not have")
    return None


class Submissions:
    """Makes items that say more than a command."""

    def __init__(self, engine: Engine, store: Store, blobs: BlobStore, secrets: Secrets, rights: FileRights) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._secrets = secrets
        self._rights = rights

    async def known(self, messages: Iterable[types_pb2.JobSpec]) -> Definitions:
        """The newest versions of the workloads that these items name, as they are committed.

        A definition whose commit may still fail is none: a job of it would name a version that never was.
        """
        names: set[str] = set()
        for message in messages:
            names.add(message.workload)
            names.update(stage.workload for stage in message.stages)
        names.discard("")
        if not names:
            return {}
        return await self._engine.look(lambda live: {n: live.workloads[n] for n in names if n in live.workloads})

    async def make(
        self, message: types_pb2.JobSpec, job_id: str, principal: Principal, definitions: Definitions
    ) -> Submission:
        """Complete and check an item; what is wrong with it is in its `error`."""
        plain = submission(message, job_id, principal, plain=False)
        if plain.error is not None:
            return plain
        if message.key:
            # Of what was asked, not of what a definition makes of it today.
            asked = types_pb2.JobSpec()
            asked.CopyFrom(message)
            asked.ClearField("principal")
            asked.owner = plain.owner
            plain = plain._replace(digest=hashlib.sha256(asked.SerializeToString(deterministic=True)).digest())
        spec = spec_from_proto(message)
        if error := check_spec(spec) or check_secrets(spec.secrets, spec.work.env):
            return plain._replace(error=error)
        try:
            hidden = await self._rights.hidden(principal, [file.digest for file in spec.work.files if file.digest])
            if hidden:
                raise _not_stored(next(file.path for file in spec.work.files if file.digest in hidden))
            made = await self._complete(plain, spec, definitions)
            return made._replace(asked=_asked(message, made))
        except HostlerError as error:
            return plain._replace(error=error)

    async def _complete(self, plain: Submission, spec: JobSpec, definitions: Definitions) -> Submission:
        if spec.stages:
            return await self._complete_chain(plain, spec, definitions)
        workload = None
        if spec.workload:
            workload = await self._workload(definitions, spec.workload, spec.workload_version)
        if workload is not None and not workload.external:
            raise InvalidRequest(f"workload {spec.workload} only runs as a later stage of a chain", field="workload")
        return await self._expanded(plain, spec, workload)

    async def _complete_chain(self, plain: Submission, spec: JobSpec, definitions: Definitions) -> Submission:
        """Pin the version of every stage, and make the first one of them."""
        if spec.workload or spec.work.argv or spec.work.python or spec.work.stdin:
            raise InvalidRequest("a job with stages has no program, workload or fed stdin of its own", field="stages")
        if len(spec.stages) > STAGES_MAX:
            raise TooLarge(f"{len(spec.stages)} stages; at most {STAGES_MAX}", field="stages")
        workloads = [await self._workload(definitions, each.workload, each.workload_version) for each in spec.stages]
        first = workloads[0]
        if not first.external:
            raise InvalidRequest(f"workload {first.name} cannot be the first of a chain", field="stages")
        stages = tuple(Stage(workload=w.name, workload_version=w.version) for w in workloads)
        common = replace(spec, stages=stages, params="", work=replace(spec.work, files=(), stdin_path=""))
        for workload in workloads[1:]:
            if error := check_later_stage(workload, common):
                raise error
            if workload.secrets:
                self._secrets.values(tuple(sorted(workload.secrets.items())))
        made = await self._expanded(plain, replace(spec, stages=(), workload=first.name), first)
        if len(workloads) == 1:
            return made
        return made._replace(chain=Chain(tuple(workloads), common))

    async def _expanded(self, plain: Submission, spec: JobSpec, workload: Workload | None) -> Submission:
        if workload is None:
            completed = complete(spec)
        elif workload.params_schema:
            # A schema may take its time over parameters; nobody else is to wait for that.
            completed = await asyncio.to_thread(expand, workload, spec, plain.id)
        else:
            completed = expand(workload, spec, plain.id)
        if isinstance(completed, HostlerError):
            raise completed
        plan = plan_of(workload, completed)
        missing = await self._blobs.touch(plan.inputs)
        if missing:
            raise _not_stored(next(file.path for file in completed.work.files if file.digest in missing))
        if plan.secrets:
            self._secrets.values(plan.secrets)
        return plain._replace(**plan._asdict(), start_within_s=spec.start_within_s)

    async def _workload(self, definitions: Definitions, name: str, version: int) -> Workload:
        newest = definitions.get(name)
        if newest is None:
            raise WorkloadNotFound(f"there is no workload {name[:100]!r}", field="workload")
        if version in (0, newest.version):
            return newest
        found = await self._store.get_workload(name, version)
        if found is None:
            raise WorkloadNotFound(f"workload {name} has no version {version}", field="workload_version")
        return found


def _asked(message: types_pb2.JobSpec, made: Submission) -> bytes:
    """What is kept of an item so that it can be asked for again: with the versions that it was accepted with."""
    asked = types_pb2.JobSpec()
    asked.CopyFrom(message)
    asked.ClearField("principal")
    asked.ClearField("key")
    asked.owner = made.owner
    if asked.workload:
        asked.workload_version = made.workload_version
    pinned = made.chain.spec.stages if made.chain is not None else ()
    for place, stage in enumerate(asked.stages):
        stage.workload_version = pinned[place].workload_version if pinned else made.workload_version
    return asked.SerializeToString()


def is_described(message: types_pb2.JobSpec) -> bool:
    """Whether more is to be made of an item than it says: a workload, parameters, files."""
    work = message.work
    return bool(
        message.workload
        or message.stages
        or message.params
        or message.secrets
        or message.retries
        or message.retry_on
        or message.start_within_s
        or message.on_lost
        or message.HasField("lost_after_s")
        or message.crash_limit
        or work.HasField("limits")
        or work.loss_policy
        or work.start_path
        or work.files
        or work.stdin_path
        or work.workspace
        or work.HasField("python")
        or work.HasField("container")
        or work.HasField("service")
    )


def _not_stored(path: str) -> FileNotFound:
    return FileNotFound(f"the bytes of {path!r} are not stored (any more); store them again", field="files")
