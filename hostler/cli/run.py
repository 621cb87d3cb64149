"""`hostler run`: a job that behaves like the command itself.

Uses the cluster that answers, else a private one in a temporary directory that ends with the command.
What happens once a cluster is there is in `hostler.cli.session`; it loads gRPC, so it is imported only when
the programs of a private cluster are already on their way.
"""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import ExitStack

from hostler.cli.connect import address_of, answers, settings_for, unreachable
from hostler.cli.failures import RUN_FAILED, UNREACHABLE, Failure, failure_of
from hostler.cli.interrupts import Interrupts
from hostler.cli.options import Place, RunOptions
from hostler.cli.private_cluster import PrivateCluster
from hostler.cli.render import print_failure, say
from hostler.cli.stdin import is_forwarded
from hostler.cli.submission import spec_of
from hostler.errors import HostlerError
from hostler.jobs import JobSpec
from hostler.settings import Settings

ANSWER_S = 1.5  # a cluster that takes longer to say what it is does not count as there


def run(place: Place, options: RunOptions, argv: Sequence[str]) -> int:
    """Run a command on a worker and return its exit status; 125 when hostler itself failed."""
    spec = spec_of(options, argv, key=str(uuid.uuid4()), stdin=is_forwarded())
    settings = settings_for(place)
    try:
        with ExitStack() as ends:
            return _run(spec, settings, ends, private=options.private, as_json=place.as_json)
    except HostlerError as error:
        print_failure(failure_of(error), as_json=place.as_json)
    except Failure as failure:
        print_failure(failure, as_json=place.as_json)
    return RUN_FAILED


def _run(spec: JobSpec, settings: Settings, ends: ExitStack, *, private: bool, as_json: bool) -> int:
    address = "" if private else address_of(settings)
    if address and not answers(address):
        if settings.coordinator:
            raise unreachable(settings, address)
        address = ""
    cluster = None if address else _start_private(spec, settings, ends)
    return asyncio.run(_follow_through(spec, settings, ends, address, cluster, as_json=as_json))


async def _follow_through(
    spec: JobSpec, settings: Settings, ends: ExitStack, address: str, cluster: PrivateCluster | None, *, as_json: bool
) -> int:
    interrupts = Interrupts()
    interrupts.listen()
    from hostler.cli.session import Session, describes
    from hostler.client import Client
    from hostler.tls import target_of

    if cluster is None:
        async with Client(target_of(settings, address)) as client:
            if settings.coordinator or await describes(client, ANSWER_S):
                return await Session(client, interrupts, as_json=as_json).run(spec)
        say(f"the cluster at {address} does not answer; using a private one")
        cluster = _start_private(spec, settings, ends)
    if not await interrupts.before(cluster.ready()):
        return interrupts.status
    async with Client(cluster.address) as client:
        return await Session(client, interrupts, as_json=as_json).run(spec)


def _start_private(spec: JobSpec, settings: Settings, ends: ExitStack) -> PrivateCluster:
    if spec.worker or spec.labels:
        raise Failure(
            "--worker and --label choose among the workers of a cluster, and none answers",
            hint="start one with: hostler up",
            exit_code=UNREACHABLE,
        )
    cluster = PrivateCluster.start(settings)
    ends.callback(cluster.end)
    return cluster
