"""Whose something is: what is somebody else's is answered like what never was."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.access import WORKER_PREFIX
from coordinator.rpc import file_rights
from coordinator.rpc.certificates import SCOPES
from coordinator.storage.sqlite import SqliteStore
from hostler.client import Client
from hostler.errors import FileNotFound, HostlerError, KeyNotFound, PermissionDenied, Unauthenticated
from hostler.jobs import File, JobQuery, JobSpec, Record, Work
from hostler.policy import ADDRESS, ROLES, RPCS, Principal
from hostler.workloads import Runtime, Workload
from tests.access.calls import METHODS, End, end_of
from tests.support.builders import a_spec, an_id
from tests.support.fake_worker import FakeWorker

OF_ONE_JOB = {
    name: "ids" if "ids" in METHODS[name].input_type.fields_by_name else "id"
    for name in RPCS
    if name.startswith("Jobs/") and {"id", "ids"} & set(METHODS[name].input_type.fields_by_name)
}
MORE: dict[str, dict[str, Any]] = {
    "Jobs/Signal": {"signal": 2},
    "Jobs/ReadOutput": {"path": "a"},
    "Jobs/ReadLog": {"follow": True},
}
UNKNOWN = an_id(99)


async def a_key(local: Client, owner: str, *scopes: str) -> tuple[str, str]:
    """The text of a key of *owner*, and the principal that it is."""
    made = await local.access.create_key(f"{owner}'s", owner=owner, scopes=scopes or ["developer"])
    return made.text, f"key:{made.key.id}"


async def ends_for(port: Any, key: str, job: str) -> dict[str, End]:
    """How every call that names a job ends, with the job's id left out of the texts."""
    found = {}
    for name, field in OF_ONE_JOB.items():
        if name not in ("Jobs/Watch", "Jobs/Retry"):  # that ends for nobody, and this answers each item by itself
            asked: dict[str, Any] = {field: [job] if field == "ids" else job, **MORE.get(name, {})}
            end = await end_of(port, name, key, **asked)
            found[name] = end._replace(text=end.text.replace(job, "ID"))
    return found


async def test_another_owner_s_job_is_answered_like_one_that_never_was(
    port: Any, local: Client, worker: FakeWorker
) -> None:
    """In every call that names a job, while it waits and once it is over: the same status and the same text."""
    ada, _ = await a_key(local, "ada")
    _, bob = await a_key(local, "bob")
    running = await local.submit_one(a_spec(), principal=bob)
    (key,) = await worker.takes()
    await worker.report_started(key)
    over = await local.submit_one(a_spec(), principal=bob)
    *_, key = await worker.takes(2)
    await worker.report_ended(key)
    assert await local.wait_one(over)
    unknown = await ends_for(port, ada, UNKNOWN)

    assert len(unknown) > 8
    assert {end.code for end in unknown.values()} == {grpc.StatusCode.NOT_FOUND}
    for job in (running, over):
        assert await ends_for(port, ada, job) == unknown
    assert (await local.get(running)).state.word == "running"


async def test_lists_and_events_hold_one_s_own_jobs_only(local: Client) -> None:
    """Unless everybody's are seen; asking for another owner's gives none."""
    _, ada = await a_key(local, "ada")
    _, bob = await a_key(local, "bob")
    _, operator = await a_key(local, "eve", "operator")
    hers = await local.submit_one(a_spec(), principal=ada)
    his = await local.submit_one(a_spec(), principal=bob)

    async def listed(principal: str, **query: Any) -> list[str]:
        page = await local.find(JobQuery(**query), principal=principal)
        brief = [job.id async for found in local.find_brief(JobQuery(**query), principal=principal) for job in found]
        assert [job.id for job in page.jobs] == brief
        return brief

    assert await listed(ada) == [hers]
    assert await listed(ada, owner="bob") == []
    assert await listed(bob, id_prefix=hers[:8]) == []
    assert await listed(operator) == [hers, his]
    assert await listed(operator, owner="bob") == [his]
    async for event in local.watch(principal=bob):
        assert event.job == his
        break
    async for event in local.watch([hers, his], principal=bob):
        assert event.job == his
        break


async def test_an_event_after_many_of_others_is_not_missed(local: Client, worker: FakeWorker) -> None:
    """Others' are passed over, and not looked at again."""
    _, bob = await a_key(local, "bob")
    for _ in range(3):
        await local.submit([a_spec() for _ in range(300)])
    his = await local.submit_one(a_spec(), principal=bob)

    async for event in local.watch(principal=bob):
        assert event.job == his
        break


async def test_keys_of_one_owner_share_his_jobs(local: Client) -> None:
    """A key is replaced without losing sight of what the old one started."""
    _, one = await a_key(local, "ada")
    _, other = await a_key(local, "ada")
    job = await local.submit_one(a_spec(), principal=one)

    assert (await local.get(job, principal=other)).spec.owner == "ada"


async def test_an_idempotency_key_is_its_owner_s_own(local: Client) -> None:
    """The same key of another owner is another job, and naming him does not reach his."""
    _, ada = await a_key(local, "ada")
    _, bob = await a_key(local, "bob")
    spec = a_spec(key="k")
    hers = await local.submit_one(spec, principal=ada)

    assert await local.submit_one(spec, principal=bob) != hers
    (refused,) = await local.submit([a_spec(key="k", owner="ada")], principal=bob)
    assert isinstance(refused, PermissionDenied) and "jobs:any-owner" in refused.message


async def test_a_record_of_another_owner_s_job_tells_nothing_of_it(local: Client) -> None:
    """It is noted as of any unknown id; only whoever sees the job hears that its own word counts."""
    _, ada = await a_key(local, "ada")
    _, bob = await a_key(local, "bob")
    hers = await local.submit_one(a_spec(), principal=ada)

    await local.records.put(Record(id=hers, status="failed"), principal=bob)

    with pytest.raises(HostlerError, match="run by this cluster"):
        await local.records.put(Record(id=hers, status="failed"), principal=ada)
    assert await local.records.find([hers], principal=ada) == []


# Files


async def read(local: Client, digest: str, principal: str) -> bytes:
    """The stored bytes of this name, as *principal* sees them."""
    async with local.files.read(digest, principal=principal) as reading:
        return b"".join([piece async for piece in reading.pieces])


async def test_bytes_are_those_of_who_stored_them_and_of_whose_jobs_refer_to_them(local: Client) -> None:
    """Whoever only knows their name has neither them nor a job with them; the texts are those of unknown bytes."""
    _, ada = await a_key(local, "ada")
    _, bob = await a_key(local, "bob")
    stored = await local.files.put_bytes(b"hers", principal=ada)
    file = File(path="inputs/a", digest=stored.digest, size_bytes=4)
    spec = JobSpec(work=Work(argv=("cat",), files=(file,)))

    assert await read(local, stored.digest, ada) == b"hers"
    with pytest.raises(FileNotFound, match="no bytes are stored under"):
        await read(local, stored.digest, bob)
    (refused,) = await local.submit([spec], principal=bob)
    assert isinstance(refused, FileNotFound) and "are not stored" in refused.message

    _, of_her_other_key = await a_key(local, "ada")
    assert isinstance((await local.submit([spec], principal=of_her_other_key))[0], str)
    assert (await local.files.put_bytes(b"hers", principal=bob)).digest == stored.digest
    assert await read(local, stored.digest, bob) == b"hers"


async def test_a_script_is_read_by_whoever_reads_its_workload(local: Client) -> None:
    """And by nobody who may not."""
    _, ada = await a_key(local, "ada", "viewer")
    _, bob = await a_key(local, "bob", "outputs:read")
    stored = await local.files.put_bytes(b"def main(ctx, params): pass\n")
    file = File(path="s.py", digest=stored.digest, size_bytes=stored.size_bytes)
    await local.workloads.apply([Workload(name="w", runtime=Runtime.PYTHON, script=file)])

    assert await read(local, stored.digest, ada)
    with pytest.raises(FileNotFound):
        await read(local, stored.digest, bob)


async def test_another_owner_s_bytes_make_no_workload(local: Client) -> None:
    """Else whoever writes workloads would read everything."""
    _, ada = await a_key(local, "ada")
    _, bob = await a_key(local, "bob", "workloads:write", "workloads:read")
    stored = await local.files.put_bytes(b"def main(ctx, params): return 1\n", principal=ada)
    file = File(path="s.py", digest=stored.digest, size_bytes=stored.size_bytes)

    with pytest.raises(HostlerError, match="its script is not stored"):
        await local.workloads.apply([Workload(name="w", runtime=Runtime.PYTHON, script=file)], principal=bob)


# Keys


async def test_keys_of_another_owner_are_not_there(local: Client) -> None:
    """For whoever may make keys and see only his own."""
    _, bob = await a_key(local, "bob", "keys:manage", "jobs:read")
    hers = (await local.access.create_key("hers", owner="ada", scopes=["viewer"])).key.id

    assert {key.owner for key in await local.access.list_keys(principal=bob)} == {"bob"}
    with pytest.raises(KeyNotFound) as foreign:
        await local.access.revoke_key(hers, principal=bob)
    with pytest.raises(KeyNotFound) as unknown:
        await local.access.revoke_key("0" * 12, principal=bob)
    assert foreign.value.message.replace(hers, "ID") == unknown.value.message.replace("0" * 12, "ID")


# Who speaks for whom


async def test_the_socket_speaks_for_keys_addresses_and_itself_and_for_nobody_else(local: Client) -> None:
    """A name that stands for nobody is nobody's."""
    _, ada = await a_key(local, "ada")
    assert (await local.get(await local.submit_one(a_spec(), principal=ada))).spec.owner == "ada"
    assert (await local.get(await local.submit_one(a_spec(), principal="local"))).spec.owner == "local"
    for nobody in ("ada", "key:0123456789ab", "key:", "address:", "address:x", "worker:w", "LOCAL"):
        with pytest.raises(Unauthenticated):
            await local.find(JobQuery(), principal=nobody)
        (refused,) = await local.submit([a_spec()], principal=nobody)
        assert isinstance(refused, Unauthenticated)


async def test_an_admitted_address_may_what_the_infernet_family_needs(local: Client) -> None:
    """On its own jobs: it runs workloads and no command."""
    (refused,) = await local.submit([a_spec()], principal="address:10.0.0.9")
    assert isinstance(refused, PermissionDenied) and "jobs:arbitrary-command" in refused.message
    assert await local.records.find(principal="address:10.0.0.9") == []
    with pytest.raises(PermissionDenied):
        await local.workers(principal="address:10.0.0.9")
    assert not ADDRESS & (ROLES["developer"] - ROLES["submitter"] - {"status:write"})


async def test_a_key_speaks_for_others_only_with_its_scope_and_never_for_local_users(port: Any, local: Client) -> None:
    """A gateway's key may do nothing of its own; another key's word for somebody else is not looked at."""
    gateway, _ = await a_key(local, "g", "gateway")
    admin, _ = await a_key(local, "root", "admin")
    _, viewer = await a_key(local, "vi", "viewer")
    job = await local.submit_one(a_spec())

    assert (await end_of(port, "Jobs/Get", gateway, id=job)).code is grpc.StatusCode.PERMISSION_DENIED
    assert (await end_of(port, "Jobs/List", gateway, principal=viewer)).code is grpc.StatusCode.OK
    assert (await end_of(port, "Workloads/Remove", gateway, principal=viewer)).code is grpc.StatusCode.PERMISSION_DENIED
    unknown = await end_of(port, "Jobs/Get", gateway, id=job, principal="local")
    assert unknown.code is grpc.StatusCode.UNAUTHENTICATED
    assert "a key is needed here" in unknown.text and "not good" not in unknown.text  # for its caller has shown none
    assert (await end_of(port, "Jobs/Get", admin, id=job, principal=viewer)).code is grpc.StatusCode.OK


async def test_on_the_socket_a_key_counts_and_nothing_besides_it(address: str, local: Client) -> None:
    """Whoever shows a key there is its holder and nothing more."""
    key, _ = await a_key(local, "ada", "viewer")
    job = await local.submit_one(a_spec())
    async with grpc.aio.insecure_channel(address) as channel:
        assert (await end_of(channel, "Jobs/Get", key, id=job)).code is grpc.StatusCode.NOT_FOUND
        assert (await end_of(channel, "Cluster/Metrics", key)).code is grpc.StatusCode.PERMISSION_DENIED
        assert (await end_of(channel, "Cluster/Metrics", "nonsense")).code is grpc.StatusCode.UNAUTHENTICATED
        assert (await end_of(channel, "Cluster/Metrics")).code is grpc.StatusCode.OK


def test_every_call_that_names_a_job_is_called_here() -> None:
    """Generated from the contract: a new one is called the day it is added."""
    assert set(OF_ONE_JOB) >= {"Jobs/Get", "Jobs/Feed", "Jobs/Wait", "Jobs/Watch", "Jobs/ReadArchive"}


async def test_what_workers_store_pushes_nobody_out_of_the_memory_of_who_stored_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs is asked of the jobs that they have, however much they put."""
    monkeypatch.setattr(file_rights, "STORED_MAX", 2)
    store = await SqliteStore.open(tmp_path / "hostler.db")
    rights = file_rights.FileRights(store)
    alice, worker = Principal(name="alice"), Principal(name=f"{WORKER_PREFIX}{an_id(1)}", scopes=SCOPES)
    rights.note_stored(alice, "a" * 64)

    for digit in "123":
        rights.note_stored(worker, digit * 64)

    assert await rights.hidden(alice, ["a" * 64, "1" * 64]) == {"1" * 64}
    await store.close()
