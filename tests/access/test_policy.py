"""Scopes, roles and the table of RPCs."""

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from hostler.policy import EVERYTHING, LOCAL, NOBODY, ROLES, RPCS, Door, Principal, Scope, scopes_of
from hostler.v1 import access_pb2, files_pb2, jobs_pb2, workers_pb2, workloads_pb2

MODULES = (access_pb2, files_pb2, jobs_pb2, workers_pb2, workloads_pb2)


def services() -> list[ServiceDescriptor]:
    """Every service of the contract."""
    return [service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]


def test_every_rpc_of_the_contract_is_in_the_table_and_nothing_else() -> None:
    """A method that is added later without saying who may call it fails here, and at the start of the server."""
    methods = {f"{service.name}/{method.name}" for service in services() for method in service.methods}

    assert methods == set(RPCS)


def test_no_role_but_the_gateway_may_speak_for_others() -> None:
    """And the gateway may do nothing else in its own name."""
    asserting = {name for name, scopes in ROLES.items() if Scope.PRINCIPALS_ASSERT in scopes}

    assert asserting == {"gateway"}
    assert ROLES["gateway"] == {Scope.PRINCIPALS_ASSERT}
    assert Scope.PRINCIPALS_ASSERT not in EVERYTHING


def test_scopes_and_roles_can_be_mixed() -> None:
    """As on the command line."""
    assert scopes_of(["viewer", "metrics:read"]) == ROLES["viewer"] | {Scope.METRICS_READ}


@pytest.mark.parametrize("word", ["", "jobs", "jobs:", "jobs:*", "JOBS:READ", "jobs:read ", "root"])
def test_what_is_no_scope_gives_nothing(word: str) -> None:
    """Compared whole, never by prefix or pattern."""
    with pytest.raises(ValueError, match="neither a role nor a scope"):
        scopes_of([word])


def test_nobody_may_anything_and_sees_nothing() -> None:
    """Deny by default."""
    assert not any(NOBODY.may(scope) for scope in Scope)
    assert not NOBODY.sees("local")


def test_one_sees_ones_own_and_with_any_owner_everything() -> None:
    """Ownership comes on top of scopes."""
    ada = Principal(name="ada", scopes=ROLES["developer"])

    assert ada.sees("ada") and not ada.sees("bob")
    assert LOCAL.sees("bob")


def test_only_joining_is_open_to_anybody() -> None:
    """Its token opens it."""
    assert [name for name, needed in RPCS.items() if needed is Door.ANYBODY] == ["Access/Join"]
