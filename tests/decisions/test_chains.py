"""Jobs of several stages: the result of each goes to the next."""

import json
from dataclasses import replace
from typing import Any

import pytest

from coordinator.changes import Chain, Ended, Retried, StageEnded
from coordinator.effects import Acknowledge
from hostler.ids import AttemptKey
from hostler.jobs import Failure, JobSpec, Stage, Work
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from hostler.wire.work import work_from_bytes
from hostler.workloads import ResultFrom, Stdin, Workload
from tests.support.builders import W1, W2, ended, started
from tests.support.scene import Scene, check_invariants

SCHEMA = json.dumps({"type": "object", "required": ["n"]})


def a_workload(name: str, **changes: Any) -> Workload:
    """A process: JSON in, JSON out."""
    made = Workload(name=name, version=1, argv=(name,), stdin=Stdin.PARAMS, result=ResultFrom.STDOUT)
    return replace(made, **changes)


def a_chain(*workloads: Workload, **common: Any) -> Chain:
    """What a job goes through."""
    stages = tuple(Stage(workload=w.name, workload_version=w.version) for w in workloads)
    given: dict[str, Any] = {"work": Work(), "stages": stages} | common
    return Chain(workloads, JobSpec(**given))


def running(scene: Scene, chain: Chain, **changes: Any) -> AttemptKey:
    """A job of this chain, whose first stage runs on worker 1."""
    return scene.running(chain=chain, workload=chain.workloads[0].name, **changes)


def next_running(scene: Scene, key: AttemptKey, stage: int) -> AttemptKey:
    """The attempt of the next stage, which has been placed and runs."""
    (sent,) = scene.place()
    assert sent.key == AttemptKey(key.job, stage, 1)
    scene.say(started(sent.key))
    return sent.key


ONE, TWO, THREE = a_workload("one"), a_workload("two"), a_workload("three")


def test_the_result_of_a_stage_is_what_the_next_one_gets() -> None:
    """The whole JSON answer, as it came."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO))

    assert scene.say(ended(key, result=b'{"n": [1, 2]}')) == [Acknowledge(W1, key)]

    job = scene.job(key.job)
    assert (job.state, job.stage, job.attempt, job.worker) == (State.QUEUED, 1, 0, "")
    work = work_from_bytes(scene.last(StageEnded).following.work)
    assert work.argv == ("two",) and work.result_stdout
    files = {file.path: file.content for file in work.files}
    assert files[work.stdin_path] == b'{"n": [1, 2]}'
    check_invariants(scene.live)


def test_a_result_that_was_stored_goes_on_by_its_name() -> None:
    """It is not carried through the coordinator; and it is kept with the chain."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO))

    scene.say(ended(key, result_digest="d" * 64, result_bytes=1 << 20))

    change = scene.last(StageEnded)
    work = work_from_bytes(change.following.work)
    assert {file.digest for file in work.files} == {"d" * 64}
    assert work.stdin_path in {file.path for file in work.files}
    assert change.kept == ("d" * 64,) and change.following.inputs == ("d" * 64,)


def test_the_last_stage_ends_the_job() -> None:
    """With its result."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO, THREE))
    for stage in (1, 2):
        scene.say(ended(key, result=b"1"))
        key = next_running(scene, key, stage)

    scene.say(ended(key, result=b'"end"'))

    over = scene.last(Ended)
    assert (over.outcome, over.key.stage) == (Outcome.SUCCEEDED, 2)
    assert end_from_bytes(over.end).result == b'"end"'
    assert scene.live.jobs == {}


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 3},
        {"exit_code": None, "cause": "signal", "signal": "SIGKILL"},
        {"exit_code": None, "cause": "timeout"},
        {"exit_code": 0, "failure": Failure(type="InvalidOutput", module="hostler", message="no JSON")},
    ],
)
def test_a_failing_stage_ends_the_job_and_no_later_one_starts(change: dict[str, Any]) -> None:
    """Also when the program exited well and left nothing that could be handed on."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO))

    scene.say(ended(key, **change))

    assert scene.last(Ended).outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    assert scene.last(Ended).key.stage == 0
    assert scene.live.jobs == {} and scene.place() == []


def test_a_stage_that_cannot_take_the_result_fails_before_it_starts() -> None:
    """The one before has succeeded; the text says what was wrong, and where."""
    scene = Scene()
    key = running(scene, a_chain(ONE, replace(TWO, params_schema=SCHEMA)))

    scene.say(ended(key, result=b'{"m": 1}'))

    assert isinstance(scene.history[-2], StageEnded)
    over = scene.last(Ended)
    assert (over.outcome, over.key, over.started_at_us) == (Outcome.REJECTED, AttemptKey(key.job, 1, 0), 0)
    assert "two" in end_from_bytes(over.end).evidence and "n" in over.error
    assert scene.live.jobs == {} and scene.live.queued == 0
    check_invariants(scene.live)


def test_a_result_that_is_no_text_is_nothing_that_a_stage_takes() -> None:
    """A worker that sends one ends that job and no stream of its own."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO))

    scene.say(ended(key, result=b'"\xff"'))

    over = scene.last(Ended)
    assert (over.outcome, over.key.stage) == (Outcome.REJECTED, 1)
    assert "UTF-8" in over.error


def test_a_stop_ends_a_chain_wherever_it_is() -> None:
    """While a stage waits at once; while one runs, once nothing of it is left, also when that one still succeeds."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO))
    scene.say(ended(key, result=b"1"))
    scene.stop(key.job)
    assert scene.last(Ended).outcome is Outcome.STOPPED

    again = running(scene, a_chain(ONE, TWO))
    scene.stop(again.job)
    scene.say(ended(again, result=b"1"))
    assert (scene.last(Ended).key, scene.last(Ended).outcome) == (again, Outcome.STOPPED)
    assert scene.live.jobs == {}


def test_each_stage_has_its_own_retries() -> None:
    """Counted anew."""
    scene = Scene()
    key = running(scene, a_chain(replace(ONE, retries=1), replace(TWO, retries=1)), retries=1)
    scene.say(ended(key, exit_code=1))
    assert isinstance(scene.history[-1], Retried)
    scene.wait(60)
    scene.tick()
    (sent,) = scene.place()
    scene.say(started(sent.key))
    scene.say(ended(sent.key, result=b"1"))
    key = next_running(scene, key, 1)

    scene.say(ended(key, exit_code=1))

    assert isinstance(scene.history[-1], Retried)
    assert scene.job(key.job).retried == 1


def test_stages_run_where_their_workloads_can() -> None:
    """Each is placed for itself, on another worker if need be."""
    scene = Scene()
    two = replace(TWO, labels={"gpu": "yes"}, slots=2)
    key = running(scene, a_chain(ONE, two))

    scene.say(ended(key, result=b"1"))

    assert scene.place() == []
    wanted = scene.job(key.job).placement.key
    assert (wanted.labels, wanted.slots, wanted.workload) == ((("gpu", "yes"),), 2, "two")
    scene.join(W2, labels=(("gpu", "yes"),))
    assert [sent.key.stage for sent in scene.place()] == [1]


def test_the_log_of_an_earlier_stage_still_arrives() -> None:
    """While the next one runs."""
    scene = Scene()
    key = running(scene, a_chain(ONE, TWO))
    scene.say(ended(key, result=b"1", ledger_bytes=500))

    log = scene.live.trailing[key]
    assert (log.ledger_bytes, log.past) == (500, True)


def test_a_lost_stage_loses_the_job() -> None:
    """As any job; no later stage starts."""
    scene = Scene(lost_after_s=5.0)
    key = running(scene, a_chain(ONE, TWO))
    scene.leave()
    scene.wait(6)

    scene.tick()

    assert scene.last(Ended).outcome is Outcome.LOST
    assert scene.live.jobs == {}
    assert key not in scene.worker().held
