"""Keys over a restart, and what is on the disk of them."""

from pathlib import Path
from typing import Any

import grpc

from coordinator.app import Coordinator
from coordinator.changes import KeyCreated
from coordinator.storage.sqlite import SqliteStore
from hostler.client import Client, open_channel
from hostler.endpoint import coordinator_socket
from hostler.errors import Unauthenticated
from hostler.settings import Settings
from tests.access.calls import end_of
from tests.support.waiting import until


async def test_keys_and_their_ends_outlive_a_restart(settings: Settings, data_dir: Path) -> None:
    """What was answered is durable."""
    address = f"unix:{coordinator_socket(data_dir)}"
    async with Coordinator(settings), Client(address) as local:
        good = await local.access.create_key("good", scopes=["viewer"], networks=["127.0.0.0/8"], expires_in_s=900)
        gone = await local.access.create_key("gone", owner="ada", scopes=["metrics:read", "jobs:read"])
        await local.access.revoke_key(gone.key.id)
        before = await local.access.list_keys()

    async with (
        Coordinator(settings, lookup=lambda peer, own: None) as again,
        Client(address) as local,
        open_channel(again.grpc_address) as port,
    ):
        assert await local.access.list_keys() == before
        assert (await end_of(port, "Jobs/List", good.text)).code is grpc.StatusCode.OK
        assert (await end_of(port, "Jobs/List", gone.text)).code is grpc.StatusCode.UNAUTHENTICATED


def files_with(directory: Path, secret: bytes) -> list[Path]:
    """The files below a directory that hold these bytes."""
    return [path for path in directory.rglob("*") if path.is_file() and secret in path.read_bytes()]


async def test_no_secret_is_in_any_file(settings: Settings, data_dir: Path) -> None:
    """Only its hash is kept."""
    address = f"unix:{coordinator_socket(data_dir)}"
    async with Coordinator(settings), Client(address) as local:
        made = await local.access.create_key("k", scopes=["viewer"])
        await local.access.authenticate(made.text)
        assert made.text not in repr(made)
    secret = made.text.rpartition(made.key.id)[2].strip("_").encode()

    assert files_with(data_dir, secret) == []


async def test_the_last_use_is_shown_and_outlives_a_restart(settings: Settings, data_dir: Path) -> None:
    """To the minute: it is written once however often a key is used."""
    address = f"unix:{coordinator_socket(data_dir)}"
    async with Coordinator(settings), Client(address) as local:
        made = await local.access.create_key("k", scopes=["viewer"])
        for _ in range(20):
            await local.access.authenticate(made.text)

        async def used() -> Any:
            return (await local.access.list_keys())[0].used_at_us

        at_us = await until(used, "its use was noted")
        await local.access.authenticate(made.text)
        assert await used() == at_us

    store = await SqliteStore.open(data_dir / "coordinator" / "hostler.db")
    found = [change.key.used_at_us for change in (await store.load()).changes if isinstance(change, KeyCreated)]
    await store.close()
    assert found == [at_us]


async def test_a_gateway_learns_whose_a_key_is(local: Client) -> None:
    """From where it may be shown is its own to say."""
    made = await local.access.create_key("k", owner="ada", scopes=["viewer"], networks=["10.0.0.0/8"])

    holder = await local.access.authenticate(made.text, address="10.0.0.7")

    assert (holder.principal, holder.owner) == (f"key:{made.key.id}", "ada")
    assert holder.scopes == frozenset(made.key.scopes)
    for address in ("11.0.0.7", "", "nonsense"):
        try:
            await local.access.authenticate(made.text, address=address)
        except Unauthenticated:
            continue
        raise AssertionError(address)
