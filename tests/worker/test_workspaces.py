"""Attempts with a workspace, on a whole worker with real programs and a coordinator that stores files in memory."""

import json
import os
from dataclasses import replace

import pytest

from hostler.jobs import File, PythonScript, Work
from tests.worker.fake_coordinator import PIECE_BYTES, FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh
from tests.worker.whole_worker import Worker, a_worker, appears, work
from worker_agent.reports import HeldState


async def test_a_worker_says_what_it_can_run_and_what_it_takes(worker: Worker, coordinator: FakeCoordinator) -> None:
    """In its hello."""
    (hello,) = coordinator.hellos

    assert (list(hello.runtimes), list(hello.workloads)) == (["command", "python", "service"], ["a*"])


async def test_files_are_there_before_the_program_and_what_it_leaves_is_stored(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Inline and stored inputs, the environment, outputs in folders, the result, the progress; then nothing stays."""
    large = os.urandom(3 * PIECE_BYTES + 5)
    code = (
        'cat "$HOSTLER_INPUT_DIR/small" > outputs/copy; mkdir outputs/sub; cp inputs/deep/large outputs/sub/large;'
        'cat "$HOSTLER_PARAMS_FILE" > "$HOSTLER_RESULT_FILE"; [ "$PWD" = "$HOSTLER_WORKSPACE" ] || exit 9;'
        'echo \'{"total": 2}\' >> "$HOSTLER_PROGRESS_FILE"; echo \'{"step": "one"}\' >> progress;'
        'stat -c %a . > outputs/mode; echo "$HOSTLER_JOB" > outputs/job'
    )
    key = bench.key("a")
    files = [File(path="inputs/small", content=b"small"), File(path="params.json", content=b'{"x": 1}')]
    coordinator.start(key, work(code, *files, coordinator.file("inputs/deep/large", large)))

    report = await coordinator.over(key)

    assert report.end.exit_code == 0
    assert [each.path for each in report.outputs] == ["copy", "job", "mode", "sub/large"]
    assert coordinator.output(report, "copy") == b"small"
    assert coordinator.output(report, "sub/large") == large
    assert coordinator.output(report, "mode") == b"700\n"
    assert coordinator.output(report, "job").decode() == key.split(".")[0] + "\n"
    assert report.end.result == b'{"x": 1}'
    assert report.end.outputs == 4
    assert list(report.end.outputs_missing) == []
    assert [step.text for step in report.end.advance.steps] == ["one"]
    assert report.outputs[3].size_bytes == len(large)
    await eventually(lambda: not worker.path(key).exists(), "the workspace to be removed")
    assert not worker.agent.assignments.held


async def test_a_plain_job_has_no_workspace(worker: Worker, bench: Bench, coordinator: FakeCoordinator) -> None:
    """No directory, no file, no note, no further channel."""
    key = bench.key("a")
    coordinator.start(key, Work(argv=sh("env > env.txt"), cwd=str(bench.place)))

    report = await coordinator.over(key)

    assert report.end.exit_code == 0
    assert "HOSTLER_WORKSPACE" not in (bench.place / "env.txt").read_text()
    assert (coordinator.puts, coordinator.reads, coordinator.notes(key)) == (0, 0, [])
    assert not (worker.directory / "work").exists()
    assert not worker.workspaces._reach.is_open


@pytest.mark.parametrize(
    ("code", "grace_s", "timeout_s", "cause"),
    [
        ("exit 3", 0.0, 0.0, "exit"),
        ("kill -ABRT $$", 0.0, 0.0, "signal"),
        ("exec sleep 60", 0.0, 0.3, "timeout"),
        ("touch ready; exec sleep 60", 0.0, 0.0, "stop"),
    ],
)
async def test_outputs_are_stored_however_the_program_ends(
    worker: Worker,
    bench: Bench,
    coordinator: FakeCoordinator,
    code: str,
    grace_s: float,
    timeout_s: float,
    cause: str,
) -> None:
    """Failure, signal, time limit and stop; the exception of a script comes along."""
    key = bench.key("a")
    failure = '{"type": "E", "module": "m", "message": "bad", "traceback": "t"}'
    wanted = work(f"echo so far > outputs/o; echo '{failure}' > failure.json; {code}", grace_s=grace_s)
    coordinator.start(key, replace(wanted, timeout_s=timeout_s))
    if cause == "stop":
        await appears(worker.path(key) / "ready")
        coordinator.stop(key)

    report = await coordinator.over(key)

    assert report.end.cause == cause
    assert coordinator.output(report, "o") == b"so far\n"
    assert (report.end.failure.type, report.end.failure.message) == ("E", "bad")


async def test_standard_input_can_be_a_file_of_the_workspace(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Read from its beginning; it ends where the file does."""
    key = bench.key("a")
    file = File(path="inputs/in", content=b"line\n")
    coordinator.start(key, Work(argv=sh("cat > outputs/out"), files=(file,), stdin_path="inputs/in"))

    report = await coordinator.over(key)

    assert coordinator.output(report, "out") == b"line\n"


async def test_a_script_runs_with_its_own_folder_before_the_path_of_its_job(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The worker finds the interpreter, and PYTHONPATH of the job is joined behind."""
    key = bench.key("a")
    code = b"import os\ndef main(ctx, params):\n    return [os.environ['PYTHONPATH'], params]\n"
    files = (File(path="script/s.py", content=code), File(path="params.json", content=b'{"n": 7}'))
    coordinator.start(key, Work(files=files, python=PythonScript(path="script/s.py"), env={"PYTHONPATH": "/mine"}))

    report = await coordinator.over(key)

    assert report.end.exit_code == 0, report
    assert json.loads(report.end.result) == [f"{worker.directory}/script_path:/mine", {"n": 7}]
    assert report.end.advance.percent == 100


async def test_progress_and_outputs_are_noted_while_the_program_runs(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """And all of them again on a new stream."""
    key = bench.key("a")
    code = (
        "echo '{\"percent\": 40}' >> progress; echo hi > outputs/o; touch ready; while [ ! -e go ]; do sleep 0.02; done"
    )
    coordinator.start(key, work(code))

    def said() -> bool:
        notes = coordinator.notes(key)
        listed = [note for note in notes if note.outputs_listed and [each.path for each in note.outputs] == ["o"]]
        return bool(listed) and any(note.advance.percent == 40 for note in notes)

    await eventually(said, "the notes")
    assert [each.size_bytes for note in coordinator.notes(key) for each in note.outputs][-1] == 3
    coordinator.messages.clear()
    await coordinator.go()
    await coordinator.come()
    await eventually(said, "the notes on a new stream")
    (worker.path(key) / "go").touch()
    report = await coordinator.over(key)
    assert report.end.advance.percent == 100


async def test_an_attempt_that_is_prepared_can_be_stopped(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """It is noted as preparing, holds no slot, never ran, and leaves nothing."""
    coordinator.may_read.clear()
    key, other = bench.key("a"), bench.key("b")
    coordinator.start(key, work("true", coordinator.file("inputs/x", b"x")))
    await coordinator.noted(key, "preparing")
    coordinator.start(other, Work(argv=("true",)), slots=2)
    assert (await coordinator.over(other)).end.exit_code == 0
    assert worker.agent.assignments.held[key].state is HeldState.WAITING

    coordinator.stop(key)

    report = await coordinator.over(key)
    assert (report.never_ran, report.refusal) == (True, "")
    await eventually(lambda: not worker.path(key).exists(), "the workspace to be removed")


async def test_a_worker_that_leaves_gives_back_what_it_prepares(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """It never ran, and another worker can have it."""
    coordinator.may_read.clear()
    key = bench.key("a")
    coordinator.start(key, work("true", coordinator.file("inputs/x", b"x")))
    await coordinator.noted(key, "preparing")

    await worker.agent.leave(stop_jobs=False)

    report = await coordinator.over(key)
    assert (report.never_ran, report.refusal) == (True, "")


async def test_an_attempt_is_given_back_when_the_coordinator_stays_away_from_its_files(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a refusal: the next worker may have better luck."""
    monkeypatch.setattr("worker_agent.preparation.PATIENCE_S", 0.5)
    coordinator.may_read.clear()
    key = bench.key("a")
    coordinator.start(key, work("true", coordinator.file("inputs/x", b"x")))
    await coordinator.noted(key, "preparing")

    await coordinator.go()
    await eventually(lambda: worker.agent.assignments.held[key].never_ran, "the attempt to be given up")
    await coordinator.come()

    report = await coordinator.over(key)
    assert (report.never_ran, report.refusal) == (True, "")
    coordinator.may_read.set()


async def test_bytes_that_are_no_longer_stored_refuse_the_attempt(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """The refusal names the file."""
    key = bench.key("a")
    coordinator.start(key, work("true", File(path="inputs/gone", digest="0" * 64, size_bytes=1)))

    report = await coordinator.over(key)

    assert report.never_ran
    assert "inputs/gone" in report.refusal and not report.elsewhere
    assert "no longer stored" in report.refusal


async def test_bytes_that_are_not_what_their_digest_names_never_reach_a_program(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """They are fetched a second time, and then refused."""
    key = bench.key("a")
    file = coordinator.file("inputs/x", b"right")
    coordinator.blobs[file.digest] = b"wrong"
    coordinator.start(key, work("true", file))

    report = await coordinator.over(key)

    assert (report.never_ran, coordinator.reads) == (True, 2)
    assert "inputs/x" in report.refusal


async def test_a_transfer_that_breaks_goes_on_where_it_was(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Also when the coordinator goes away in between; at most two files come at once."""
    content = os.urandom(5 * PIECE_BYTES)
    coordinator.broken_reads = 3
    files = [coordinator.file("inputs/x", content)]
    files += [coordinator.file(f"inputs/{number}", b"%d" % number) for number in range(6)]
    key = bench.key("a")
    coordinator.start(key, work("cat inputs/x > outputs/x", *files))

    report = await coordinator.over(key)

    assert coordinator.output(report, "x") == content
    assert coordinator.transfers_max <= 2


async def test_a_full_disk_gives_the_attempt_back_and_asks_for_no_more(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Another worker may have room: no refusal."""
    key = bench.key("a")
    file = replace(coordinator.file("inputs/x", b"x"), size_bytes=1 << 60)
    coordinator.start(key, work("true", file))

    report = await coordinator.over(key)

    assert (report.never_ran, report.refusal, coordinator.reads) == (True, "", 0)
    assert any(message.draining for message in coordinator.messages)


async def test_what_cannot_be_kept_is_named(worker: Worker, bench: Bench, coordinator: FakeCoordinator) -> None:
    """Links, pipes and a result that is no JSON; the end is told all the same."""
    key = bench.key("a")
    code = "cd outputs; ln -s /etc/passwd link; mkfifo pipe; echo ok > ok; echo '{' > ../result.json"
    coordinator.start(key, work(code))

    report = await coordinator.over(key)

    assert [each.path for each in report.outputs] == ["ok"]
    missing = sorted(report.end.outputs_missing)
    assert missing[:2] == ["link: a symbolic link, not a regular file", "pipe: a pipe, not a regular file"]
    assert missing[2].startswith("result.json: ")
    assert (report.end.exit_code, report.end.result) == (0, b"")


async def test_a_collection_frees_the_slot_and_waits_for_the_coordinator(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Another attempt runs meanwhile; the end is told only when the outputs are stored."""
    coordinator.may_put.clear()
    key, other = bench.key("a"), bench.key("b")
    coordinator.start(key, work("echo o > outputs/o"), slots=2)
    await coordinator.noted(key, "collecting")
    coordinator.start(other, Work(argv=("true",)), slots=2)
    assert (await coordinator.over(other)).end.exit_code == 0
    assert not any(report.HasField("end") for report in coordinator.reports(key))

    await coordinator.go()
    coordinator.may_put.set()
    await coordinator.come()

    report = await coordinator.over(key)
    assert coordinator.output(report, "o") == b"o\n"


async def test_a_collection_ends_at_its_deadline_with_what_there_is(bench: Bench, coordinator: FakeCoordinator) -> None:
    """The missing files are named."""
    coordinator.may_put.clear()
    async with a_worker(bench, coordinator, collect_s=0.3):
        key = bench.key("a")
        coordinator.start(key, work("echo o > outputs/o; echo 1 > result.json"))

        report = await coordinator.over(key)

        assert list(report.end.outputs_missing) == ["o: not stored within 0.3 s"]
        assert report.end.result == b"1"
        coordinator.may_put.set()


@pytest.mark.parametrize("when", ["running", "collecting"])
async def test_outputs_are_stored_after_the_agent_was_killed(
    bench: Bench, coordinator: FakeCoordinator, when: str
) -> None:
    """While the program ran, or while its outputs were on their way: the next agent collects from the beginning."""
    key = bench.key("a")
    if when == "collecting":
        coordinator.may_put.clear()
    async with a_worker(bench, coordinator) as first:
        wait = "while [ ! -e go ]; do sleep 0.02; done;" if when == "running" else ""
        code = f"echo '{{\"percent\": 7}}' >> progress; touch ready; {wait} echo late > outputs/o; exit 4"
        coordinator.start(key, work(code))
        await appears(first.path(key) / "ready")
        if when == "collecting":
            await coordinator.noted(key, "collecting")
        await first.killed()
    coordinator.may_put.set()
    (bench.place / f"worker/work/{key}/go").touch()

    async with a_worker(bench, coordinator) as second:
        report = await coordinator.over(key)

        assert report.end.exit_code == 4
        assert coordinator.output(report, "o") == b"late\n"
        assert report.end.advance.percent == 7
        await eventually(lambda: not second.path(key).exists(), "the workspace to be removed")


async def test_what_was_prepared_when_the_agent_was_killed_never_ran(
    bench: Bench, coordinator: FakeCoordinator
) -> None:
    """And workspaces that nobody holds are removed by the next agent."""
    coordinator.may_read.clear()
    key = bench.key("a")
    async with a_worker(bench, coordinator) as first:
        coordinator.start(key, work("true", coordinator.file("inputs/x", b"x")))
        await coordinator.noted(key, "preparing")
        await first.killed()
    stale = bench.place / "worker/work/nobody.0.1"
    (stale / "outputs").mkdir(parents=True)

    async with a_worker(bench, coordinator) as second:
        report = await coordinator.over(key)

        assert (report.never_ran, report.refusal) == (True, "")
        await eventually(lambda: not stale.exists() and not second.path(key).exists(), "both to be removed")
    coordinator.may_read.set()


async def test_output_files_of_a_running_attempt_are_sent_to_who_asks(
    worker: Worker, bench: Bench, coordinator: FakeCoordinator
) -> None:
    """Whole or in part, with the size first; what is not there is answered with the reason."""
    key = bench.key("a")
    code = "seq 200000 > outputs/o; ln -s o outputs/link; touch ready; exec sleep 60"
    coordinator.start(key, work(code, grace_s=0.0))
    await appears(worker.path(key) / "ready")
    whole = (worker.path(key) / "outputs/o").read_bytes()

    coordinator.show("whole", key, "o")
    coordinator.show("part", key, "o", offset=10, length=7)
    wrong = {"link": "link", "none": "none", "above": "../progress", "absolute": "/etc/passwd"}
    for ticket, path in wrong.items():
        coordinator.show(ticket, key, path)
    coordinator.show("unknown", bench.key("other"), "o")

    content, first = await coordinator.shown("whole")
    assert (content, first.size_bytes, first.error) == (whole, len(whole), "")
    content, first = await coordinator.shown("part")
    assert (content, first.size_bytes) == (whole[10:17], len(whole))
    for ticket in [*wrong, "unknown"]:
        content, first = await coordinator.shown(ticket)
        assert content == b""
        assert first.error != ""
