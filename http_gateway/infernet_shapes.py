"""What the Infernet API reads and says: job requests, the guardian's refusals, jobs as its words.

Pure: nothing here waits or asks anybody. The guardian's messages, their `params` and the order in
which they are looked for are those of the real node.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

import msgspec

from hostler.jobs import INLINE_BYTES_MAX, NAME_CHARACTERS_MAX, STAGES_MAX, End, File, Job, JobSpec, Record, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.workloads import Workload

FAMILY = "infernet"
OFFCHAIN = "1"  # where data comes from and where a result goes, as containers are told it
STREAM = "2"
SOURCE_VARIABLE = "HOSTLER_SERVICE_SOURCE"
DESTINATION_VARIABLE = "HOSTLER_SERVICE_DESTINATION"
PROOF_VARIABLE = "HOSTLER_SERVICE_REQUIRES_PROOF"
PARAMS_PATH = "params.json"
# Data up to here is the job's parameters. They may be written twice, as parameters and as standard input,
# and both together have the limit of what travels with a job.
PARAMS_BYTES_MAX = INLINE_BYTES_MAX // 2 - 4096

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
Address = IPv4Address | IPv6Address


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


def job_spec(request: JobRequest, *, owner: str, params: str = "", file: File | None = None) -> JobSpec:
    """Make the job of a request whose data is *params*, or the stored *file*."""
    return JobSpec(
        work=Work(env=_variables(request, OFFCHAIN), files=(file,) if file is not None else ()),
        stages=tuple(Stage(workload=name) for name in request.containers),
        params=params,
        name=",".join(request.containers)[:NAME_CHARACTERS_MAX],
        owner=owner,
        family=FAMILY,
    )


def stream_spec(request: JobRequest, *, owner: str, params: str = "", file: File | None = None) -> JobSpec:
    """Make the job whose output is streamed: the first container alone, and once, for what was sent is sent."""
    first = request._replace(containers=request.containers[:1])
    spec = job_spec(first, owner=owner, params=params, file=file)
    work = msgspec.structs.replace if False else None  # placeholder
    return spec


def encode_json(value: object) -> bytes:
    """Write JSON; integers of any size are allowed."""
    try:
        return msgspec.json.encode(value)
    except OverflowError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
