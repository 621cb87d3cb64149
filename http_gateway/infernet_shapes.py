"""What the Infernet API reads and says: job requests, the guardian's refusals, jobs as its words.

Pure: nothing here waits or asks anybody. The guardian's messages, their `params` and the order in
which they are looked for are those of the real node.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import msgspec

from hostler.errors import InvalidRequest
from hostler.jobs import NAME_CHARACTERS_MAX, STAGES_MAX, End, Job, JobSpec, Record, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.stages import stages_of
from hostler.workloads import Workload
from http_gateway.networks import Address, Network, is_within, parse_networks
from http_gateway.operations import ANY, COUNT, OBJECT, TEXT, TRUTH, Schema, fields, fields_and, listed, one_of, or_null
from http_gateway.raw_json import is_json

FAMILY = "infernet"
OFFCHAIN = "1"  # where data comes from and where a result goes, as containers are told it
STREAM = "2"
SOURCE_VARIABLE = "HOSTLER_SERVICE_SOURCE"
DESTINATION_VARIABLE = "HOSTLER_SERVICE_DESTINATION"
PROOF_VARIABLE = "HOSTLER_SERVICE_REQUIRES_PROOF"

ID_CHARACTERS_MAX = 200  # of a record
RECORD_CONTAINERS_MAX = 100
STATUSES = ("success", "failed", "running")
FLAGS = {"true": True, "1": True, "false": False, "0": False}
SUBSCRIPTION_FIELDS = ("subscription", "signature")

# What a failed job says when nobody has left a reason.
REASONS = {
    Outcome.FAILED: "the container failed",
    Outcome.STOPPED: "the job was stopped",
    Outcome.TIMED_OUT: "the container took longer than its time limit",
    Outcome.LOST: "the worker that ran the container was lost",
    Outcome.REJECTED: "no worker would run the container",
}
RECORDED_FAILURE = "the job was recorded as failed; whoever recorded it knows why"
NO_JSON = "the result is not JSON"
EXPIRED = "the result is not stored any more"

Json = dict[str, object]

# For the OpenAPI document.
ID: Schema = fields(id=TEXT)
REFUSED: Schema = fields_and(fields(error=TEXT), params=OBJECT)
FLAG: Schema = {"type": "string", "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|0|1)$"}
JOB_REQUEST: Schema = fields_and(
    fields(containers={**listed(TEXT), "minItems": 1, "maxItems": STAGES_MAX}, data=OBJECT),
    requires_proof=or_null(TRUTH),
)
RECORD: Schema = fields(
    id={**TEXT, "minLength": 1, "maxLength": ID_CHARACTERS_MAX},
    status=one_of(*STATUSES),
    containers={**listed({**TEXT, "maxLength": ID_CHARACTERS_MAX}), "maxItems": RECORD_CONTAINERS_MAX},
)
RESULT: Schema = fields(id=TEXT, status=one_of(*STATUSES), result=ANY)
INFO: Schema = fields(
    containers=listed(fields(id=TEXT, description=TEXT, external=TRUTH, image=TEXT)),
    pending=fields(offchain=COUNT, onchain=COUNT),
    version=TEXT,
    chain=fields(enabled=TRUTH, address=TEXT),
)


class JobRequest(NamedTuple):
    """A job request as it was read."""

    containers: tuple[str, ...]
    data: Json
    requires_proof: bool


class Refused(NamedTuple):
    """Why there is no job."""

    error: str
    params: Json | None = None  # None: the answer has no such key

    def shape(self) -> Json:
        """As the document has it."""
        return {"error": self.error} if self.params is None else {"error": self.error, "params": self.params}


# Requests


def read_request(body: object) -> JobRequest | Refused:
    """Read one job request; keys that it does not know are passed over, `id` and `ip` among them."""
    if not isinstance(body, dict):
        return _unusable("a JSON object is expected")
    if "containers" not in body and any(name in body for name in SUBSCRIPTION_FIELDS):
        return Refused("Chain not enabled", {})
    for name in ("containers", "data"):
        if name not in body:
            return _unusable(f'missing value for field "{name}"')
    containers, given, proof = body["containers"], body["data"], body.get("requires_proof")
    if not isinstance(containers, list) or not all(isinstance(name, str) for name in containers):
        return _unusable('wrong value for field "containers": a list of strings is expected')
    if len(containers) > STAGES_MAX:
        return _unusable(f"{len(containers)} containers; at most {STAGES_MAX}")
    if not isinstance(given, dict):
        return _unusable('wrong value for field "data": a JSON object is expected')
    if not isinstance(proof, bool | None):
        return _unusable('wrong value for field "requires_proof": true or false is expected')
    return JobRequest(tuple(containers), given, bool(proof))


def check_request(request: JobRequest, known: Mapping[str, Workload], address: Address | None) -> Refused | None:
    """Say why a request is refused, as the guardian does, or None.

    Args:
        request: what is asked for.
        known: the containers of this API by name, those that only later stages may name included.
        address: the caller's.
    """
    if not request.containers:
        return Refused("No containers specified", {})
    for name in request.containers:
        if name not in known:
            return Refused("Container not supported", {"container": name})
    first, last = request.containers[0], request.containers[-1]
    if not known[first].external:
        return Refused("First container must be external", {"first_container": first})
    if request.requires_proof and not known[last].proofs:
        return Refused("Container does not generate proof", {"container": last})
    for name in request.containers:
        if not _admits(known[name], address):
            shown = "" if address is None else str(address)
            return Refused("Container not allowed for address", {"container": name, "address": shown})
    return None


def job_spec(request: JobRequest, *, principal: str, stream: bool = False) -> JobSpec:
    """Make the job of a request, but for its data.

    With *stream* it is the first container alone, and once: what a reader has got cannot be taken back.
    """
    containers = request.containers[:1] if stream else request.containers
    variables = {
        SOURCE_VARIABLE: OFFCHAIN,
        DESTINATION_VARIABLE: STREAM if stream else OFFCHAIN,
        PROOF_VARIABLE: "true" if request.requires_proof else "false",
    }
    return JobSpec(
        work=Work(env=variables),
        stages=tuple(Stage(workload=name) for name in containers),
        name=",".join(containers)[:NAME_CHARACTERS_MAX],
        principal=principal,
        family=FAMILY,
        retries=0 if stream else None,
    )


def read_record(body: object) -> Record | Refused:
    """Read what somebody else runs; keys that it does not know are passed over."""
    if not isinstance(body, dict):
        return _unstorable("a JSON object is expected")
    for name in ("id", "status", "containers"):
        if name not in body:
            return _unstorable(f'missing value for field "{name}"')
    name, status, containers = body["id"], body["status"], body["containers"]
    if not isinstance(name, str) or not 0 < len(name) <= ID_CHARACTERS_MAX:
        return _unstorable(f'wrong value for field "id": a text of 1 to {ID_CHARACTERS_MAX} characters is expected')
    if not isinstance(containers, list) or not all(isinstance(each, str) for each in containers):
        return _unstorable('wrong value for field "containers": a list of strings is expected')
    if len(containers) > RECORD_CONTAINERS_MAX or any(len(each) > ID_CHARACTERS_MAX for each in containers):
        return _unstorable(f'wrong value for field "containers": at most {RECORD_CONTAINERS_MAX} names are kept')
    if status not in STATUSES:
        return Refused("Status is invalid")
    return Record(id=name, status=status, containers=tuple(containers))


def _unusable(why: str) -> Refused:
    return Refused(f"Could not enqueue job: {why}")


def _unstorable(why: str) -> Refused:
    return Refused(f"Could not store job status: {why}")


# Containers


def container_shape(workload: Workload) -> Json:
    """A container, as the document has it; what is no container has no image."""
    container = workload.container
    if container is None and workload.service is not None:
        container = workload.service.container
    return {
        "id": workload.name,
        "description": workload.documentation.strip().partition("\n")[0].rstrip(),
        "external": workload.external,
        "image": "" if container is None else container.image,
    }


def is_container(workload: Workload) -> bool:
    """Whether a workload is one of this API's, be it only as a later stage of a chain."""
    return not workload.families or FAMILY in workload.families


def resources_of(workload: Workload) -> msgspec.Raw | None:
    """What a workload says that it offers; None: nothing, or nothing that is JSON."""
    raw = workload.resources.encode()
    return msgspec.Raw(raw) if raw and is_json(raw) else None


def _admits(workload: Workload, address: Address | None) -> bool:
    return not workload.allowed_networks or is_within(address, _networks(workload.allowed_networks))


@lru_cache(maxsize=1000)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Read networks; what is none admits nobody."""
    found: list[Network] = []
    for text in texts:
        with suppress(InvalidRequest):
            found += parse_networks((text,), field="allowed_networks")
    return tuple(found)


# Jobs


def status_of(job: Job) -> str:
    """The word for where a job has come to."""
    if job.state is not State.FINISHED:
        return "running"
    return "success" if job.outcome is Outcome.SUCCEEDED else "failed"


def container_of(job: Job) -> str:
    """The container of a job's current stage."""
    stages = job.spec.stages
    return stages[job.stage].workload if stages else job.spec.workload


def earlier_ends(job: Job) -> list[tuple[str, End]]:
    """How the stages before a job's current one ended, each with its container, in order."""
    return [(view.workload, view.end) for view in stages_of(job)[: job.stage] if view.end is not None]


def is_stream(job: Job) -> bool:
    """Whether a job was made to be streamed."""
    return job.spec.work.env.get(DESTINATION_VARIABLE) == STREAM


def failure_shape(job: Job) -> Json:
    """What a failed job has instead of an output: the container that failed, and why."""
    end = job.end or End()
    said = end.failure.message if end.failure is not None else ""
    error = said or end.error or end.evidence or REASONS.get(job.outcome, job.outcome.word)
    return {"container": container_of(job), "error": error}


def record_shape(record: Record, *, intermediate: bool) -> Json:
    """What somebody else runs, as a result: there is no output here."""
    shape: Json = {"id": record.id, "status": record.status, "result": None}
    if record.status == "failed":
        last = record.containers[-1] if record.containers else ""
        shape["result"] = {"container": last, "error": RECORDED_FAILURE}
    if intermediate:
        shape["intermediate_results"] = []
    return shape


# Parameters of a query


def read_flag(text: str, name: str) -> bool:
    """Read true, false, 1 or 0, in any case.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        return FLAGS[text.lower()]
    except KeyError:
        raise InvalidRequest(f"{name} is true or false, not {text[:50]!r}", field=name) from None
