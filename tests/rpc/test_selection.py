"""Tags, selectors of workers, lists by filter and the place where a watch begins, as a program calls them."""

import pytest

from hostler.client import Client
from hostler.errors import InvalidRequest, TooLarge
from hostler.jobs import JobQuery, JobSpec, Stage, Work
from hostler.lifecycle import State
from hostler.workloads import Workload
from tests.rpc.conftest import MakeWorker
from tests.support.builders import a_spec, an_id
from tests.support.fake_worker import FakeWorker


async def test_a_job_has_its_tags(client: Client) -> None:
    """Kept, shown, and found by; the labels stay what a worker must have."""
    job = await client.submit_one(a_spec(tags={"batch": "7", "kind": "x y"}, labels={"gpu": "yes"}))
    other = await client.submit_one(a_spec(tags={"batch": "8"}))

    shown = await client.get(job)
    page = await client.find(JobQuery(filter='batch = 7 and kind = "x y"'))
    brief = [
        found.id async for group in client.find_brief(JobQuery(filter="batch and state = queued")) for found in group
    ]

    assert (shown.spec.tags, shown.spec.labels) == ({"batch": "7", "kind": "x y"}, {"gpu": "yes"})
    assert [found.id for found in page.jobs] == [job]
    assert brief == [job, other]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tags": {"": "x"}}, "tags"),
        ({"tags": {"a": "x" * 201}}, "tags"),
        ({"tags": {f"t{number}": "" for number in range(65)}}, "tags"),
        ({"tags": {"state": "mine"}}, "tags"),
        ({"where": "zone in a"}, "where"),
    ],
)
async def test_tags_and_selectors_have_their_form(client: Client, changes: dict[str, object], field: str) -> None:
    """What is wrong is said of the item."""
    with pytest.raises(InvalidRequest) as caught:
        await client.submit_one(a_spec(**changes))
    assert caught.value.field == field


async def test_a_selector_that_is_too_long_is_refused(client: Client) -> None:
    """Of jobs, and of lists."""
    with pytest.raises(TooLarge):
        await client.submit_one(a_spec(where="a" * 5000))
    with pytest.raises(TooLarge):
        await client.find(JobQuery(filter="a" * 5000))


async def test_a_bad_filter_names_the_place(client: Client) -> None:
    """Also where nothing is there to be found."""
    with pytest.raises(InvalidRequest, match="filter, character 11: a value") as caught:
        await client.find(JobQuery(filter="batch in ("))
    assert caught.value.field == "filter"


async def test_the_same_key_with_other_tags_is_another_job(client: Client) -> None:
    """As with any other field."""
    first = await client.submit_one(a_spec(key="k", tags={"a": "1"}))
    assert await client.submit_one(a_spec(key="k", tags={"a": "1"})) == first
    (other,) = await client.submit([a_spec(key="k", tags={"a": "2"})])
    assert not isinstance(other, str)
    (other,) = await client.submit([a_spec(key="k")])
    assert not isinstance(other, str)


async def test_a_job_goes_to_a_worker_that_matches(client: Client, make_worker: MakeWorker) -> None:
    """By labels, name and host; one that does not match is not given it, and the job says why it waits."""
    one = await make_worker(name="one", labels={"zone": "a"}, journal_id="1")
    two = await make_worker(name="two", labels={"zone": "b", "spare": "yes"}, journal_id="2")

    first = await client.submit_one(a_spec(where="zone in (a, c) and not spare and host = nowhere"))
    second = await client.submit_one(a_spec(where=f"name = t* and id = {two.id}"))
    third = await client.submit_one(a_spec(where="zone = c"))

    assert [key.job for key in await one.takes()] == [first]
    assert [key.job for key in await two.takes()] == [second]
    waiting = await client.get(third)
    assert waiting.state is State.QUEUED
    assert waiting.pending_reasons == ("2 workers do not match zone = c",)
    three = await make_worker(name="three", labels={"zone": "c"}, journal_id="3")
    assert [key.job for key in await three.takes()] == [third]


async def test_each_stage_of_a_chain_goes_to_a_worker_that_matches(client: Client, make_worker: MakeWorker) -> None:
    """Not only the first."""
    await make_worker(name="one", journal_id="1")
    two = await make_worker(name="two", journal_id="2")
    await client.workloads.apply([Workload(name="a", argv=("a",)), Workload(name="b", argv=("b",))])
    chain = JobSpec(work=Work(), stages=(Stage(workload="a"), Stage(workload="b")), where="name = two")

    job = await client.submit_one(chain)
    (key,) = await two.takes()
    await two.report_started(key)
    await two.report_ended(key, result=b"{}")
    *_, key = await two.takes(2)

    assert (key.job, key.stage) == (job, 1)
    assert (await client.get(job)).spec.where == "name = two"


async def test_a_watch_of_what_there_is_ends(client: Client, worker: FakeWorker) -> None:
    """And one from the newest event on has nothing of before."""
    job = await client.submit_one(a_spec())
    (key,) = await worker.takes()
    await worker.report_ended(key)
    assert await client.wait_one(job)

    kinds = [event.kind async for event in client.watch([job], once=True)]
    newest = (await client.describe()).event
    nothing = [event async for event in client.watch(after=newest, once=True)]
    other = await client.submit_one(a_spec())
    later = [(event.job, event.kind) async for event in client.watch(after=newest, once=True)]

    assert (kinds[0], kinds[-1]) == ("queued", "ended")
    assert nothing == []
    assert [event async for event in client.watch([an_id(99)], once=True)] == []  # of a job that never was
    assert later[0] == (other, "queued")
