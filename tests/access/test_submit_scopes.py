"""What an item of a submit call needs: each is looked at on its own, by what it brings along."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.rpc.submissions import denial_of, submission
from hostler.client import Client
from hostler.errors import PermissionDenied
from hostler.jobs import Container, JobSpec, PythonScript, Service, Stage, Work
from hostler.policy import LOCAL, NOBODY, ROLES, Principal, Scope
from hostler.wire.jobs import spec_to_proto
from tests.support.builders import a_spec, an_id

NAMED = JobSpec(work=Work(), workload="w")
ITEMS: dict[str, tuple[JobSpec, set[Scope]]] = {
    "a workload": (NAMED, set()),
    "a chain": (JobSpec(work=Work(), stages=(Stage(workload="w"), Stage(workload="x"))), set()),
    "a command": (a_spec("true"), {Scope.JOBS_COMMAND}),
    "a container": (JobSpec(work=Work(container=Container(image="i"))), {Scope.JOBS_COMMAND}),
    "a service": (JobSpec(work=Work(service=Service(name="s", version=1, url="http://h"))), {Scope.JOBS_COMMAND}),
    "a script": (JobSpec(work=Work(python=PythonScript(path="s.py"))), {Scope.JOBS_SCRIPT}),
    "a workload and a command": (replace(NAMED, work=Work(argv=("true",))), {Scope.JOBS_COMMAND}),
    "a workload with env": (replace(NAMED, work=Work(env={"LD_PRELOAD": "inputs/a.so"})), {Scope.JOBS_COMMAND}),
    "a workload with what a gateway sets": (
        replace(NAMED, work=Work(env={"HOSTLER_ROOT_FILE": "a.step", "HOSTLER_COMPUTE_ONLY": "1"})),
        set(),
    ),
    "a workload elsewhere": (replace(NAMED, work=Work(cwd="/tmp")), {Scope.JOBS_COMMAND}),
    "a workload started otherwise": (replace(NAMED, work=Work(start_path="warm")), {Scope.JOBS_COMMAND}),
    "a job of another owner": (replace(NAMED, owner="bob"), {Scope.JOBS_ANY_OWNER}),
    "one's own by name": (replace(NAMED, owner="ada"), set()),
}
ALL = frozenset(Scope) - {Scope.PRINCIPALS_ASSERT, Scope.AUDIT_READ}  # so that nothing is waved through


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_needs_exactly_what_it_brings(name: str) -> None:
    """Without any one of its scopes it is refused by that name; with them and nothing else it is not."""
    spec, more = ITEMS[name]
    message, needed = spec_to_proto(spec), {Scope.JOBS_SUBMIT, *more}

    assert denial_of(message, Principal(name="ada", scopes=frozenset(needed))) is None
    for scope in needed:
        refused = denial_of(message, Principal(name="ada", scopes=ALL - {scope}))
        assert refused is not None and f"scope {scope}," in refused.message
    assert denial_of(message, NOBODY) is not None
    assert denial_of(message, LOCAL) is None


def test_a_refused_item_looks_nothing_up() -> None:
    """No owner, no idempotency key, no worker: there is nothing in it that could find another's job."""
    message = spec_to_proto(a_spec(owner="bob", key="k", worker=an_id(1)))

    item = submission(message, an_id(2), Principal(name="ada", scopes=ROLES["developer"]))

    assert isinstance(item.error, PermissionDenied)
    assert (item.owner, item.key, item.pin) == ("", "", "")


async def test_each_item_of_one_call_has_its_own_principal(local: Client) -> None:
    """What one may not does not keep the others from being accepted."""

    async def speaks(owner: str, *scopes: str) -> str:
        return f"key:{(await local.access.create_key(owner, scopes=scopes)).key.id}"

    developer, viewer, submitter = (
        await speaks("dev", "developer"),
        await speaks("view", "viewer"),
        await speaks("sub", "submitter"),
    )
    specs = [replace(a_spec(), principal=who) for who in (developer, viewer, submitter, "", "key:000000000000")]

    results: list[Any] = list(await local.submit(specs))

    assert [getattr(result, "code", "accepted") for result in results] == [
        "accepted",
        "permission_denied",
        "permission_denied",
        "accepted",
        "unauthenticated",
    ]
    assert (await local.get(results[0])).spec.owner == "dev"
    assert (await local.get(results[3])).spec.owner == "local"
