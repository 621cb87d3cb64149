"""Services that the worker runs in containers: started by the first call, kept, replaced, and found again."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from hostler.jobs import Container, File, Service, Work
from tests.worker.container_bench import IMAGE, PodmanBench, a_podman
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually
from tests.worker.whole_worker import Worker, a_worker

pytestmark = pytest.mark.ci

# One answer for each connection; what is asked goes back as the body's length, after a while if it holds "slow".
SERVE = r"""
echo begun
cat > /tmp/answer <<'END'
read -r method path rest
length=0
while read -r line; do
  line=$(echo "$line" | tr -d '\r')
  [ -z "$line" ] && break
  case "$line" in Content-Length:*) length=${line#*: };; esac
done
body=$(head -c "$length")
case "$body" in *slow*) sleep 3;; esac
answer="{\"path\": \"$path\", \"version\": \"$VERSION\", \"got\": ${body:-null}}"
printf 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' ${#answer} "$answer"
END
exec nc -ll -p 3000 -e sh /tmp/answer
"""


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanBench]:
    """A podman of these tests."""
    with a_podman() as made:
        yield made


@pytest.fixture
async def worker(bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench) -> AsyncIterator[Worker]:
    """A worker that offers containers; afterwards nothing of them is left."""
    async with a_worker(bench, coordinator, podman_options=podman.options) as made:
        yield made
    await asyncio.to_thread(podman.wait_for_nothing)


def call(value: object, *, code: str = SERVE, version: int = 1, start_s: float = 30.0) -> Work:
    """A call of a service that is a shell script."""
    service = Service(
        name="echo",
        version=version,
        container=Container(image=IMAGE),
        argv=("sh", "-c", code),
        env={"VERSION": str(version), "PATH": "/bin"},
        start_s=start_s,
    )
    return Work(service=service, files=(File(path="params.json", content=json.dumps(value).encode()),))


def running(podman: PodmanBench) -> list[str]:
    """The names of the service's containers, without the worker's."""
    return [each["Names"][0] for each in podman.containers() if "hostler.service" in (each["Labels"] or {})]


async def test_a_service_is_started_once_and_answers_every_call(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
) -> None:
    """The first call waits for it; it is in a network of its own and publishes nothing."""
    keys = [bench.key(f"n{number}") for number in range(3)]
    for number, key in enumerate(keys):
        coordinator.start(key, call({"n": number}))

    for number, key in enumerate(keys):
        report = await coordinator.over(key)
        assert report.end.exit_code == 0, report
        wanted = {"source": 1, "destination": 1, "requires_proof": False, "data": {"n": number}}
        assert json.loads(report.end.result) == {"path": "/service_output", "version": "1", "got": wanted}
    assert len(running(podman)) == 1
    assert any(note.phase == "preparing" for note in coordinator.notes(keys[0]))


async def test_a_service_that_cannot_be_started_says_so_in_its_own_words(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
) -> None:
    """One that ends, one that never answers, one without an image; and the next call tries again."""
    ends, silent, none = bench.key("a"), bench.key("b"), bench.key("c")
    coordinator.start(ends, call(1, code="echo no licence; exit 3"), slots=0)
    coordinator.start(silent, call(1, code="echo waiting; sleep 60", start_s=1.0, version=2), slots=0)
    work = call(1, version=3)
    assert work.service is not None
    container = Container(image="localhost/none:1")
    service = Service(name="other", version=1, container=container)
    coordinator.start(none, Work(service=service), slots=0)

    for key, words in ((ends, "no licence"), (silent, "waiting"), (none, "image not known")):
        report = await coordinator.over(key)
        assert (report.end.cause, report.end.started_at_us) == ("not_started", 0)
        assert words in report.end.error
    again = bench.key("d")
    coordinator.start(again, call(1))
    assert (await coordinator.over(again)).end.exit_code == 0


async def test_a_service_that_dies_is_started_again(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
) -> None:
    """The next call finds it up."""
    first, second = bench.key("a"), bench.key("b")
    coordinator.start(first, call(1))
    await coordinator.over(first)
    (kept,) = worker.workspaces.services._kept.values()
    before = kept.pid
    os.kill(before, signal.SIGKILL)

    coordinator.start(second, call(2))

    assert (await coordinator.over(second)).end.exit_code == 0
    assert kept.pid != before


async def test_a_service_that_answers_nobody_is_started_again(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, and nobody calls it."""
    monkeypatch.setattr("worker_agent.services.FAULTS_MAX", 1)
    monkeypatch.setattr("worker_agent.services.LOOK_S", 0.1)
    key = bench.key("a")
    coordinator.start(key, call(1))
    await coordinator.over(key)
    (kept,) = worker.workspaces.services._kept.values()
    before = kept.pid

    os.kill(before, signal.SIGSTOP)

    await eventually(lambda: kept.pid not in (0, before) and kept.up.is_set(), "another process")


async def test_a_newer_version_takes_the_place_of_the_older_once_its_calls_are_over(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
) -> None:
    """Both run meanwhile."""
    slow, newer = bench.key("a"), bench.key("b")
    coordinator.start(slow, call("slow"))
    await coordinator.started(slow)
    coordinator.start(newer, call(2, version=2))

    assert json.loads((await coordinator.over(newer)).end.result)["version"] == "2"
    assert json.loads((await coordinator.over(slow)).end.result)["version"] == "1"
    await eventually(lambda: [name.split("-")[-2] for name in running(podman)] == ["2"], "the older one to go")


async def test_a_service_that_nobody_calls_is_stopped(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten minutes; here after none."""
    monkeypatch.setattr("worker_agent.services.IDLE_S", 0.0)
    key = bench.key("a")
    coordinator.start(key, call(1))

    assert (await coordinator.over(key)).end.exit_code == 0

    await eventually(lambda: not running(podman), "the service to be stopped")
    assert os.listdir(worker.directory / "services") == []


async def test_a_service_and_its_call_outlive_the_agent(
    bench: Bench, coordinator: FakeCoordinator, podman: PodmanBench
) -> None:
    """kill -9 of the agent in the middle of a call; the next agent adopts the service, and other calls use it."""
    slow, next_one = bench.key("a"), bench.key("b")
    async with a_worker(bench, coordinator, podman_options=podman.options) as first:
        coordinator.start(slow, call("slow"))
        await coordinator.started(slow)
        names = running(podman)
        await first.killed()

    async with a_worker(bench, coordinator, podman_options=podman.options) as second:
        assert (await coordinator.over(slow)).end.exit_code == 0
        await eventually(lambda: second.workspaces.services._kept, "the service to be adopted")
        coordinator.start(next_one, call(2))
        assert (await coordinator.over(next_one)).end.exit_code == 0
        assert running(podman) == names
    await asyncio.to_thread(podman.wait_for_nothing)
