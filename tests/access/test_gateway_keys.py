"""A gateway away from its coordinator: with which keys it starts."""

from pathlib import Path

import pytest

from coordinator.app import Coordinator
from hostler.client import Client
from tests.gateway.test_process import arguments, refusal_of, running, url_of


async def settings_of_a_gateway(local: Client, coordinator: Coordinator, below: Path, role: str) -> list[str]:
    """The command line of one that shows a new key of this role."""
    made = await local.access.create_key("op", scopes=[role])
    file = below / "op.key"
    file.touch(mode=0o600)
    file.write_text(made.text)
    return arguments(below / "away", coordinator=coordinator.grpc_address, key_file=str(file))


@pytest.mark.parametrize("role", ["operator", "admin"])
async def test_a_gateway_whose_key_may_not_speak_for_others_does_not_start(
    local: Client, coordinator: Coordinator, tmp_path: Path, role: str
) -> None:
    """Its callers would be taken for the key's holder."""
    said = await refusal_of(await settings_of_a_gateway(local, coordinator, tmp_path, role))

    assert "principals:assert" in said and "--role gateway" in said


async def test_a_gateway_with_a_key_of_its_role_starts(local: Client, coordinator: Coordinator, tmp_path: Path) -> None:
    """The other side of it."""
    async with running(await settings_of_a_gateway(local, coordinator, tmp_path, "gateway")) as process:
        assert (await url_of(process)).startswith("http://127.0.0.1:")
