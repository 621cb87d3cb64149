"""Results: of standard output, and those that are too large for a message."""

import json

import pytest

from hostler import frames
from hostler.jobs import INLINE_BYTES_MAX, Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.whole_worker import Worker, a_worker, work
from worker_agent.results import RESULT_BYTES_MAX, Stdout


def process(code: str, **fields: object) -> Work:
    """A shell snippet whose standard output is its result."""
    return Work(argv=sh(code), result_stdout=True, **fields)  # type: ignore[arg-type]


async def test_standard_output_is_the_result(worker: Worker, bench: Bench, coordinator: FakeCoordinator) -> None:
    """Blanks around it aside; it is in the log too, and standard error is not part of it."""
    key = bench.key("a")
    coordinator.start(key, process("echo noise >&2; echo; echo ' {\"a\":'; sleep 0.05; echo '[1]} '"))

    report = await coordinator.over(key)

    assert (report.end.exit_code, report.end.result) == (0, b'{"a":\n[1]}')
    assert "noise" in coordinator.log(key)
    assert not report.end.HasField("failure")


async def test_blanks_around_a_result_file_are_no_part_of_it(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """As on standard output: whoever shows a result need not look for its line end."""
    key = bench.key("a")
    coordinator.start(key, Work(argv=sh("printf ' \\n{\"a\": 1}\\n\\n' >$HOSTLER_RESULT_FILE"), workspace=True))

    report = await coordinator.over(key)

    assert (report.end.exit_code, report.end.result) == (0, b'{"a": 1}')


@pytest.mark.parametrize(
    ("code", "fields", "reason"),
    [
        ("echo '{'", {}, "Expecting property name"),
        ("echo 1; echo 2", {}, "Extra data"),
        ("echo NaN", {}, "NaN is no JSON"),
        ("printf '\"\\377\"'", {}, "'utf-8' codec can't decode"),
        ("true", {}, "it is empty"),
        ("head -c 300000 /dev/zero", {}, "JSON is malformed"),
        ("echo '\"abcdef\"'", {"output_bytes_max": 5}, "a part of it was dropped"),
    ],
)
async def test_output_that_is_no_json_is_a_failure(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, code: str, fields: dict[str, int], reason: str
) -> None:
    """The program has exited with 0 and failed all the same."""
    key = bench.key("a")
    coordinator.start(key, process(code, **fields))

    report = await coordinator.over(key)

    failure = report.end.failure
    assert (failure.type, failure.module, report.end.exit_code, report.end.result) == (
        "InvalidOutput",
        "hostler",
        0,
        b"",
    )
    assert failure.message.startswith(f"the program's standard output is not JSON: {reason}")


async def test_the_output_of_a_program_that_failed_is_no_result(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Its exit code says enough."""
    key = bench.key("a")
    coordinator.start(key, process("echo '[1]'; exit 4"))

    report = await coordinator.over(key)

    assert (report.end.exit_code, report.end.result, report.end.HasField("failure")) == (4, b"", False)


@pytest.mark.parametrize("where", ["file", "stdout"])
async def test_a_large_result_is_stored(worker: Worker, bench: Bench, coordinator: FakeCoordinator, where: str) -> None:
    """The end names its bytes; it does not carry them."""
    key = bench.key("a")
    code = "printf '\"'; head -c 600000 /dev/zero | tr '\\0' x; echo '\"'"
    coordinator.start(key, process(code) if where == "stdout" else work(f"({code}) > result.json"))

    report = await coordinator.over(key)

    assert report.end.exit_code == 0
    assert (report.end.result, report.end.HasField("failure")) == (b"", False)
    content = coordinator.blobs[report.end.result_digest]
    assert len(content) == report.end.result_bytes
    assert json.loads(content) == "x" * 600_000
    assert list(report.end.outputs_missing) == []


async def test_a_large_result_that_cannot_be_stored_in_time_is_named(
    bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The end is told all the same."""
    coordinator.may_put.clear()
    async with a_worker(bench, coordinator, collect_s=0.3):
        key = bench.key("a")
        coordinator.start(key, work("(printf '\"'; head -c 600000 /dev/zero | tr '\\0' x; echo '\"') > result.json"))

        report = await coordinator.over(key)

        assert list(report.end.outputs_missing) == ["result: not stored within 0.3 s"]
        coordinator.may_put.set()


async def test_what_is_read_from_standard_output_survives_the_agent(bench: Bench, coordinator: FakeCoordinator) -> None:
    """The next agent knows from the workspace that standard output is the result."""
    key = bench.key("a")
    async with a_worker(bench, coordinator) as first:
        coordinator.start(key, process("touch ready; while [ ! -e go ]; do sleep 0.02; done; echo '[2]'"))
        await eventually((first.path(key) / "ready").exists, "the program to run")
        await first.killed()
    (first.path(key) / "go").touch()

    async with a_worker(bench, coordinator):
        assert (await coordinator.over(key)).end.result == b"[2]"


def test_output_beyond_64_mib_is_not_gathered() -> None:
    """No matter how much more there is."""
    read = Stdout()
    piece = frames.encode(frames.OUT, b"1" * frames.OUTPUT_BYTES_MAX, 0) * 16
    while read.feed(piece):
        assert read.position <= RESULT_BYTES_MAX + INLINE_BYTES_MAX

    failure = read.result().failure
    assert failure is not None
    assert failure.message.endswith(f"it is longer than {RESULT_BYTES_MAX} bytes")
