"""`hostler run`: a job that behaves like the command itself.

Uses the cluster that answers, else a private one in a temporary directory that ends with the command.
What happens once a cluster is there is in `hostler.cli.session`; it loads gRPC, so it is imported only when
the programs of a private cluster are already on their way.
"""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from hostler.cli.connect import address_of, answers, settings_for, unreachable
from hostler.cli.failures import OK, RUN_FAILED, UNREACHABLE, Failure, failure_of, usage_failure
from hostler.cli.interrupts import Interrupts
from hostler.cli.keyboard import Keyboard, has_terminal, read_keys, terminal_size
from hostler.cli.options import Place, RunOptions
from hostler.cli.private_cluster import PrivateCluster
from hostler.cli.render import print_failure, print_json, print_line, say
from hostler.cli.stdin import is_forwarded, is_open
from hostler.cli.submission import spec_of
from hostler.endpoint import read_endpoint
from hostler.errors import HostlerError
from hostler.jobs import OWN_KEY, JobSpec, Terminal
from hostler.settings import Settings, terminal_kind

if TYPE_CHECKING:
    from hostler.client import Client

ANSWER_S = 1.5  # a cluster that takes longer to say what it is does not count as there


def run(place: Place, options: RunOptions, argv: Sequence[str]) -> int:
    """Run a command on a worker and return its exit status; 125 when hostler itself failed."""
    _check_private(options)
    keys = read_keys(options.detach_keys)
    if options.tty and not options.detach and not has_terminal():
        raise usage_failure("--tty needs a terminal as its standard input", hint="leave --tty out, or use --detach")
    stdin = options.tty or (is_open() if options.detach else is_forwarded())
    spec = spec_of(options, argv, key=f"{OWN_KEY}{uuid.uuid4()}", stdin=stdin)
    if options.tty:
        rows, columns = terminal_size()
        terminal = Terminal(rows=rows, columns=columns, term=terminal_kind())
        spec = replace(spec, work=replace(spec.work, terminal=terminal))
    settings = settings_for(place)
    try:
        with ExitStack() as ends:
            return _Run(spec, settings, options, keys, ends, as_json=place.as_json).run()
    except HostlerError as error:
        print_failure(failure_of(error), as_json=place.as_json)
    except Failure as failure:
        print_failure(failure, as_json=place.as_json)
    return RUN_FAILED


def _check_private(options: RunOptions) -> None:
    """Refuse with --private what no private cluster can do, whether another one stands or not."""
    if not options.private:
        return
    chosen = (("--worker", options.worker), ("--label", options.label), ("--where", options.where))
    for option, given in chosen:
        if given:
            raise usage_failure(
                f"--private and {option} exclude each other: a private cluster has one worker, of its own",
                hint="leave one of them out",
            )
    if options.detach:
        raise usage_failure(
            "--private and --detach exclude each other: a private cluster ends with this command",
            hint="leave one of them out",
        )


class _Run:
    """One call of `run`: which cluster, and then the job."""

    def __init__(
        self, spec: JobSpec, settings: Settings, options: RunOptions, keys: bytes, ends: ExitStack, *, as_json: bool
    ) -> None:
        """*keys* detach; *ends* are called at the end of the command."""
        self._spec, self._settings, self._options = spec, settings, options
        self._keys, self._ends, self._as_json = keys, ends, as_json

    def run(self) -> int:
        """Find a cluster, be the job, return its status."""
        settings = self._settings
        gone = ""
        address = "" if self._options.private else address_of(settings)
        if address and not answers(address):
            if settings.coordinator:
                raise unreachable(settings, address)
            # Where a coordinator has never served, a private cluster is what is expected, and nothing to speak of.
            if read_endpoint(settings.data_dir) is not None:
                gone = f"no cluster answers at {address} any more (hostler up starts it again)"
            address = ""
        cluster = None if address else self._start_private(gone)
        return asyncio.run(self._follow_through(address, cluster))

    async def _follow_through(self, address: str, cluster: PrivateCluster | None) -> int:
        interrupts = Interrupts()
        interrupts.listen()
        from hostler.cli.session import describes
        from hostler.client import Client
        from hostler.tls import target_of

        if cluster is None:
            async with Client(target_of(self._settings, address)) as client:
                if self._settings.coordinator or await describes(client, ANSWER_S):
                    return await self._be(client, interrupts, self._keys)
            cluster = self._start_private(f"the cluster at {address} does not answer")
        if not await interrupts.before(cluster.ready()):
            return interrupts.status
        async with Client(cluster.address) as client:
            # It ends with this command, so nothing detaches.
            return await self._be(client, interrupts, b"", private=True)

    async def _be(self, client: "Client", interrupts: Interrupts, keys: bytes, *, private: bool = False) -> int:
        from hostler.cli.session import Session

        if self._options.detach:
            job = await Session(client, interrupts, as_json=self._as_json).submit(self._spec)
            print_json({"id": job}) if self._as_json else print_line(job)
            return OK
        if self._spec.work.terminal is None:
            return await Session(client, interrupts, as_json=self._as_json, private=private).run(self._spec)
        with Keyboard(keys) as keyboard:
            interrupts.before_leaving = keyboard.give_back
            session = Session(client, interrupts, as_json=self._as_json, keyboard=keyboard, private=private)
            return await session.run(self._spec)

    def _start_private(self, gone: str) -> PrivateCluster:
        """Start one; *gone* says what became of the cluster that it stands in for, if there was one."""
        if self._spec.worker or self._spec.labels or self._spec.where:
            raise Failure(
                "--worker, --label and --where choose among the workers of a cluster, and none answers",
                hint="start one with: hostler up",
                exit_code=UNREACHABLE,
            )
        if self._options.detach:
            raise Failure(
                "--detach needs a cluster that goes on without this command, and a private one ends with it",
                hint="start one with: hostler up",
                exit_code=UNREACHABLE,
            )
        if gone:
            say(f"{gone}; using a private one, which ends with this command")
        cluster = PrivateCluster.start(self._settings)
        self._ends.callback(cluster.end)
        return cluster
