"""Workers that are revoked: what becomes of their jobs, and what is believed of the worker that has their directory."""

import pytest

from coordinator import drains
from coordinator.admissions import Certificate, CertificateIssued
from coordinator.changes import Ended, LateEnd, Losses, Quarantined, Retried
from coordinator.effects import Answer, AttachSession, DropSession, Effect
from coordinator.events import Report
from coordinator.joining import on_renew, on_revoke
from coordinator.pending import pending
from coordinator.standings import KeptStandings
from hostler.awaited import awaited
from hostler.errors import HostlerError, InvalidRequest, PermissionDenied, WorkerNotFound
from hostler.ids import AttemptKey
from hostler.lifecycle import Outcome, State
from hostler.wire.ends import end_from_bytes
from hostler.workers import WorkerState
from tests.support.builders import W1, W2, a_submission, ended
from tests.support.scene import Scene, check_invariants

NEVER = Losses(lost_after_s=-1.0)
RETRIES = Losses(fence_s=20.0, retry=True, crash_limit=3)
DIRECTORY = "journal-1"  # of W1, which W2 has when it comes with the same


def certified(worker: str = W1, name: str = "w") -> Scene:
    """A worker that has joined with an invitation and is there."""
    scene = Scene()
    admit(scene, worker, name)
    scene.join(worker, name=name)
    return scene


def admit(scene: Scene, worker: str, name: str = "w") -> None:
    """It has a certificate."""
    now_us = scene.now.wall_us
    scene.apply(CertificateIssued(Certificate(worker, worker, name, now_us, now_us + 10**12)))


def revoke(scene: Scene, named: str = W1) -> list[Effect]:
    """Somebody revokes it, and its stream ends."""
    effects = scene.do(on_revoke(scene.live, named, None, scene.now), placing=False)
    scene.leave()
    return effects


def joins_again(scene: Scene, *held: tuple[AttemptKey, str], journal_id: str = DIRECTORY) -> AttachSession:
    """Its agent comes with a new certificate, so as another worker, and lists what is in its directory."""
    effects = scene.join(W2, name="w", journal_id=journal_id, inventory=held, mark=1)
    (attached,) = [effect for effect in effects if isinstance(effect, AttachSession)]
    return attached


def killed(key: AttemptKey, *, proved: bool = True) -> Report:
    """What an agent says of an attempt that it was told to end."""
    report = ended(key, cause="stop", exit_code=None)
    assert report.end is not None
    return report._replace(end=report.end._replace(proved=proved))


def answer_of(effects: list[Effect]) -> object:
    """What was answered."""
    return next(effect.value for effect in effects if isinstance(effect, Answer))


def test_the_jobs_of_a_revoked_worker_are_lost_at_once() -> None:
    """It never comes back to say how they end; also those that would wait for it for ever."""
    scene = certified()
    key = scene.running(losses=NEVER)

    effects = revoke(scene)

    change = scene.last(Ended)
    assert DropSession(W1, superseded=False) in effects
    assert (change.key, change.outcome, change.cause) == (key, Outcome.LOST, "worker_lost")
    evidence = end_from_bytes(change.end).evidence
    assert evidence == "worker w was revoked; the program may still run on host-1 until that host is reached"
    check_invariants(scene.live)


def test_a_worker_whose_certificate_has_expired_can_be_revoked_while_it_has_jobs() -> None:
    """They may be waited for without end; it is not forgotten that it was one of another host."""
    scene = certified()
    key = scene.running(losses=NEVER)
    scene.leave()
    scene.wait(10**6)
    renewed = Certificate("other", W2, "v", scene.now.wall_us, scene.now.wall_us + 10**12)
    admit(scene, W2, "v")
    scene.do(on_renew(scene.live, W2, renewed, None, scene.now))

    revoke(scene)

    assert (scene.last(Ended).key, scene.last(Ended).outcome) == (key, Outcome.LOST)


def test_a_job_that_is_being_stopped_is_lost_with_its_revoked_worker() -> None:
    """Whoever waits for its end is told."""
    scene = certified()
    key = scene.running()
    scene.stop(key.job)

    revoke(scene)

    assert scene.last(Ended).outcome is Outcome.LOST


def test_a_job_that_may_be_tried_again_is_so_only_when_its_supervisor_has_ended_it() -> None:
    """A revocation is no proof that it does not run."""
    scene = certified()
    key = scene.running(losses=RETRIES)
    revoke(scene)
    scene.wait(27)
    scene.tick()
    assert scene.job(key.job).state is State.RUNNING

    scene.wait(2)
    scene.tick()

    assert scene.last(Retried).cause == "lease"


@pytest.mark.parametrize(("state", "verdict"), [("running", "kill"), ("ended", "keep")])
def test_a_worker_that_joins_again_says_what_became_of_what_is_lost(state: str, verdict: str) -> None:
    """It ends what runs yet; how it ended is added to the lost attempt, which was the revoked worker's."""
    scene = certified()
    key = scene.running()
    revoke(scene)

    attached = joins_again(scene, (key, state))
    assert attached.verdicts == [(key, verdict, 0)]
    assert not any(isinstance(change, LateEnd) for change in scene.history), "nothing is proved yet"
    report = killed(key)
    scene.say(report, W2)

    assert scene.last(LateEnd) == LateEnd(key, report.end_bytes, W1)


@pytest.mark.parametrize("proved", [True, False])
def test_the_proof_of_a_worker_that_joined_again_lets_another_attempt_follow(proved: bool) -> None:
    """Before the time that its supervisor has; without a proof something of it may run on."""
    scene = certified()
    key = scene.running(losses=RETRIES)
    revoke(scene)
    assert joins_again(scene, (key, "running")).verdicts == [(key, "kill", 0)]

    scene.say(killed(key, proved=proved), W2)

    job = scene.job(key.job)
    assert job.state is (State.QUEUED if proved else State.RUNNING)
    if proved:
        assert [type(change) for change in scene.history[-2:]] == [Retried, LateEnd]
        assert "has proved that nothing of it is left" in end_from_bytes(scene.last(Retried).end).evidence
    check_invariants(scene.live)


def test_until_what_is_left_was_ended_no_other_attempt_follows() -> None:
    """The agent that joined again extends the lease, which is that of its directory."""
    scene = certified()
    key = scene.running(losses=RETRIES)
    revoke(scene)
    scene.wait(20)
    joins_again(scene, (key, "running"))

    scene.wait(20)
    scene.tick()
    assert scene.job(key.job).state is State.RUNNING
    scene.wait(10)
    scene.tick()

    assert scene.last(Retried).cause == "lease"


def test_of_a_revoked_workers_attempts_only_who_has_its_directory_is_believed() -> None:
    """Any other worker changes nothing by a report on them."""
    scene = certified()
    lost, fenced = scene.running(), scene.running(losses=RETRIES)
    revoke(scene)
    joins_again(scene, (lost, "ended"), (fenced, "ended"), journal_id="journal-2")
    length = len(scene.history)

    scene.say(killed(lost), W2)
    scene.say(killed(fenced), W2)

    assert scene.history[length:] == []


def test_a_copy_of_the_directory_of_a_worker_that_is_heard_is_not_believed() -> None:
    """Its jobs are its own as long as it was not revoked."""
    scene = certified()
    key = scene.running(losses=RETRIES)
    assert joins_again(scene, (key, "ended")).verdicts == [(key, "forget", 0)]
    length = len(scene.history)

    scene.say(killed(key), W2)

    assert scene.history[length:] == []
    assert scene.job(key.job).state is State.RUNNING


def test_a_revoked_worker_is_shown_as_one_and_never_heard_again() -> None:
    """Not released either, nor anything else; a hello that was on its way is refused."""
    scene = certified()
    revoke(scene)
    effects = scene.join(session="session-2")

    error = answer_of(effects)
    assert isinstance(error, PermissionDenied) and "was revoked" in error.message
    assert scene.worker().state is WorkerState.REVOKED
    assert scene.worker().reason == "its host may join again with a new invitation, as another worker"
    for ask in (drains.on_release, drains.on_resume):
        asked = answer_of(ask(scene.live, W1, None)[1])
        assert isinstance(asked, InvalidRequest) and "was revoked" in asked.message
    assert scene.worker().revoked


def test_a_second_revocation_changes_nothing() -> None:
    """And is no error."""
    scene = certified()
    revoke(scene)
    length = len(scene.history)

    assert answer_of(revoke(scene)) == 0
    assert not any(isinstance(change, Quarantined | Ended) for change in scene.history[length:])


def test_a_name_means_the_worker_that_is_not_revoked() -> None:
    """Its host has joined again under it; the id names either."""
    scene = certified()
    revoke(scene, "w")
    admit(scene, W2)
    found = drains.find_worker(scene.live, "w")
    assert not isinstance(found, HostlerError) and found.id == W1, "there is no other yet"
    joins_again(scene)

    for named, expected in (("w", W2), (W1, W1), (W2, W2)):
        found = drains.find_worker(scene.live, named)
        assert not isinstance(found, HostlerError) and found.id == expected
    assert answer_of(revoke(scene, "w")) == 1
    assert scene.worker(W2).revoked


def test_a_worker_that_joined_again_and_was_not_there_yet_is_revoked_by_its_name() -> None:
    """Not the one before it, which is revoked already."""
    scene = certified()
    revoke(scene, "w")
    admit(scene, W2)

    assert answer_of(revoke(scene, "w")) == 1
    assert all(each.revoked_at_us for each in scene.live.admissions.of_worker(W2))


def test_a_job_for_a_revoked_worker_is_refused() -> None:
    """It would wait for ever."""
    scene = certified()
    revoke(scene)

    (answer,) = scene.submit(a_submission(pin=W1))

    assert isinstance(answer, WorkerNotFound) and "worker w was revoked" in answer.message


def test_a_job_that_waits_for_a_worker_as_it_is_revoked_is_told_that_it_never_starts() -> None:
    """Somebody must stop it."""
    scene = certified()
    job = scene.queue(3, pin=W1, placing=True)[2]
    revoke(scene)

    why = pending(scene.live, scene.job(job), KeptStandings())

    assert [reason.text for reason in why.reasons] == ["the worker asked for was revoked"]
    assert awaited(why, pinned=True).startswith("It never starts, as the worker that it asks for was revoked")
    assert "another one joins that may run it" in awaited(why, pinned=False)
