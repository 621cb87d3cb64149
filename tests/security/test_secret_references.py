"""Secrets are named in jobs, and who names them needs a scope."""

from dataclasses import replace
from pathlib import Path

import pytest

from hostler.client import Client
from hostler.errors import InvalidRequest, PermissionDenied
from hostler.jobs import JobSpec
from hostler.policy import ROLES, Scope
from hostler.secret_checks import SECRETS_MAX, check_secrets
from hostler.v1 import types_pb2
from hostler.wire.jobs import spec_from_proto, spec_to_proto
from http_gateway.native_bodies import JobItem, job_item
from tests.support.builders import a_spec
from tests.support.fake_worker import FakeWorker

VALUE = "the-value-of-it"


@pytest.fixture
def secrets(data_dir: Path) -> None:
    """A file with one secret."""
    path = data_dir / "secrets.toml"
    path.write_text(f'token = "{VALUE}"\n')
    path.chmod(0o600)


def with_token(**changes: object) -> JobSpec:
    """A job that gets it."""
    return replace(a_spec("true"), secrets={"TOKEN": "token"}, **changes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("secrets")
async def test_a_value_is_put_in_when_the_attempt_is_sent_and_is_not_in_the_work(
    client: Client, worker: FakeWorker, data_dir: Path
) -> None:
    """Also after what is stored was read again, for the next attempt."""
    job = await client.submit_one(with_token(retries=1))
    (key,) = await worker.takes()
    assert dict(worker.starts[0].secrets) == {"TOKEN": VALUE}
    assert VALUE.encode() not in worker.starts[0].work
    await worker.report_never_ran(key)
    await worker.takes(2)
    assert dict(worker.starts[1].secrets) == {"TOKEN": VALUE}
    assert VALUE not in repr(await client.get(job))
    assert not any(VALUE.encode() in path.read_bytes() for path in (data_dir / "coordinator").rglob("*.db*"))


@pytest.mark.usefixtures("secrets")
async def test_naming_a_secret_needs_its_scope(client: Client) -> None:
    """A developer may run any command, and yet not read the cluster's secrets with one."""
    assert Scope.SECRETS_USE not in ROLES["developer"] and Scope.SECRETS_USE in ROLES["operator"]
    for role in ("developer", "operator"):
        made = await client.access.create_key(role, scopes=[role])
        submitting = client.submit_one(with_token(principal=f"key:{made.key.id}"))
        if role == "operator":
            assert await submitting
        else:
            with pytest.raises(PermissionDenied, match="secrets:use"):
                await submitting


@pytest.mark.usefixtures("secrets")
async def test_a_secret_that_is_not_there_refuses_the_job_and_names_it(client: Client, data_dir: Path) -> None:
    """At the submit, not at the start."""
    with pytest.raises(InvalidRequest, match=r"there is no secret 'other'.* secrets\.toml") as refused:
        await client.submit_one(replace(a_spec("true"), secrets={"TOKEN": "other"}))
    assert str(data_dir) not in refused.value.message  # who may be of another host


@pytest.mark.parametrize(
    ("secrets", "env"),
    [
        ({"A=B": "x"}, {}),
        ({"": "x"}, {}),
        ({"HOSTLER_JOB": "x"}, {}),
        ({"A": "../x"}, {}),
        ({"A": ""}, {}),
        ({"A": "x"}, {"A": "y"}),
        ({f"A{n}": "x" for n in range(SECRETS_MAX + 1)}, {}),
    ],
)
def test_a_reference_that_cannot_be_meant_is_refused(secrets: dict[str, str], env: dict[str, str]) -> None:
    """With the field."""
    wrong = check_secrets(secrets, env)
    assert wrong is not None and wrong.field == "secrets"


def test_over_http_a_reference_stands_in_the_place_of_a_value() -> None:
    """And every other form is refused with the name of the variable."""
    item = job_item({"argv": ["x"], "env": {"A": "text", "B": {"secret": "token"}}})
    assert isinstance(item, JobItem)
    spec = item.spec("")
    assert (spec.work.env, spec.secrets) == ({"A": "text"}, {"B": "token"})
    for bad, said in (
        (5, "env.B must be a text"),
        (None, "env.B must be a text"),
        ({"secret": 5}, "env.B.secret must be a text"),
        ({"secrets": "x"}, "env.B.secret is missing"),
        ({"secret": "x", "more": 1}, "env.B.more is not a known field"),
    ):
        wrong = job_item({"argv": ["x"], "env": {"B": bad}})
        assert isinstance(wrong, InvalidRequest) and wrong.message == said


def test_references_survive_their_journey() -> None:
    """As every field of a job."""
    message = types_pb2.JobSpec.FromString(spec_to_proto(with_token()).SerializeToString())
    assert spec_from_proto(message).secrets == {"TOKEN": "token"}
