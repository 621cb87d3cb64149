"""``hostler keys``: on the coordinator's own host, with no key."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from coordinator.app import Coordinator
from hostler.cli.main import call
from hostler.client import Client
from hostler.keys import read_key

Hostler = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def hostler(coordinator: Coordinator, data_dir: Path, capfd: pytest.CaptureFixture[str]) -> Hostler:
    """Runs a command on the running coordinator; gives its exit code, standard output and standard error."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = await asyncio.to_thread(call, ["keys", *arguments, "--data-dir", str(data_dir)])
        out, err = capfd.readouterr()
        said = "".join(line for line in out.splitlines(keepends=True) if "[info" not in line)  # the coordinator's log
        return code, said, err

    return run


async def test_a_key_is_printed_once_and_alone(hostler: Hostler, local: Client) -> None:
    """Ready for a file or a variable; what is to be known about it goes to the other stream."""
    code, out, err = await hostler("create", "ci", "--role", "viewer", "--scope", "metrics:read")

    (listed,) = await local.access.list_keys()
    made = read_key(out)
    assert code == 0 and out.count("\n") == 1 and made is not None and made.id == listed.id
    assert "only time" in err and made.secret not in err
    assert {"metrics:read", "jobs:read"} < set(listed.scopes) and (listed.owner, listed.name) == ("ci", "ci")
    assert made.secret not in (await hostler("list"))[1]


async def test_quiet_and_json_say_nothing_else(hostler: Hostler) -> None:
    """For programs."""
    code, out, err = await hostler("create", "a", "--quiet")
    assert (code, err) == (0, "") and read_key(out) is not None

    code, out, err = await hostler(
        "create", "b", "--json", "--owner", "ada", "--expires", "30d", "--network", "10.0.0.0/8"
    )
    said = json.loads(out)
    assert (code, err) == (0, "") and read_key(said["key"]) is not None
    assert (said["owner"], said["networks"]) == ("ada", ["10.0.0.0/8"])
    assert said["expires"] > said["created"]


async def test_keys_are_listed_and_revoked(hostler: Hostler) -> None:
    """By role where their scopes are those of one."""
    key = json.loads((await hostler("create", "ci", "--json"))[1])["id"]

    code, out, _ = await hostler("list")
    assert code == 0 and "submitter" in out and "good" in out and "never" in out
    assert (await hostler("revoke", key))[:2] == (0, f"{key} ci revoked\n")
    assert "revoked" in (await hostler("list"))[1]
    (listed,) = json.loads((await hostler("list", "--json"))[1])["keys"]
    assert listed["revoked"] and "key" not in listed


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("revoke", "000000000000"), 3, "hostler keys list"),
        (("create", "x", "--role", "king"), 2, "neither a role nor a scope"),
        (("create", "x", "--network", "home"), 2, "CIDR"),
        (("create", "x", "--expires", "soon"), 2, "duration"),
    ],
)
async def test_what_cannot_be_is_said_in_a_sentence(
    hostler: Hostler, arguments: tuple[str, ...], code: int, word: str
) -> None:
    """With the exit code of its kind, and nothing on standard output."""
    found = await hostler(*arguments)

    assert found[:2] == (code, "") and word in found[2]
