"""What the coordinator measures: counters that add up, and states counted from the live set."""

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from coordinator.changes import Ended
from coordinator.live import Live
from coordinator.measures import FAMILIES_MAX
from coordinator.metrics import Metrics
from hostler.clock import ManualClock
from tests.support.builders import NOON_US, W1, W2, ended, started
from tests.support.scene import Scene

SECOND_US = 1_000_000


def scraped(metrics: Metrics, live: Live | None = None, blob_bytes: int = 0) -> dict[str, Metric]:
    """Render and parse; a name that appears twice is an error."""
    families = list(text_string_to_metric_families(metrics.text(live or Live(), blob_bytes).decode()))
    found = {family.name: family for family in families}
    assert len(found) == len(families)
    return found


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The one sample of this name with these labels."""
    (found,) = [s.value for f in families.values() for s in f.samples if s.name == sample and s.labels == labels]
    return found


def test_every_name_is_there_from_the_start_and_is_ours() -> None:
    """The gateway puts its own names before them, and no name may appear twice."""
    assert set(scraped(Metrics(ManualClock()))) == {
        "hostler_jobs",
        "hostler_jobs_finished",
        "hostler_queue_age_seconds",
        "hostler_dispatch_seconds",
        "hostler_run_seconds",
        "hostler_workers",
        "hostler_slots",
        "hostler_slots_used",
        "hostler_commit_seconds",
        "hostler_commit_changes",
        "hostler_log_bytes",
        "hostler_blob_bytes",
    }


def test_jobs_and_workers_are_counted_from_the_live_set() -> None:
    """By state and family; slots are those of connected workers."""
    scene = Scene()
    scene.join(W1, slots=2)
    scene.join(W2, slots=3)
    scene.leave(W2, goodbye=True)
    scene.queue(3, placing=True)
    scene.queue(1, family="pixyz", placing=True)

    found = scraped(Metrics(ManualClock(wall_us=NOON_US)), scene.live, blob_bytes=77)

    assert value(found, "hostler_jobs", state="assigned", family="native") == 2
    assert value(found, "hostler_jobs", state="queued", family="native") == 1
    assert value(found, "hostler_jobs", state="queued", family="pixyz") == 1
    assert value(found, "hostler_workers", state="connected") == value(found, "hostler_workers", state="gone") == 1
    assert (
        value(found, "hostler_workers", state="draining") == value(found, "hostler_workers", state="unreachable") == 0
    )
    assert (value(found, "hostler_slots"), value(found, "hostler_slots_used")) == (2, 2)
    assert value(found, "hostler_blob_bytes") == 77


def test_the_age_of_the_queue_is_that_of_its_oldest_job() -> None:
    """Nothing waits: 0."""
    scene = Scene()
    clock = ManualClock(wall_us=NOON_US)
    metrics = Metrics(clock)
    scene.queue()
    scene.wait(5)
    scene.queue()
    clock.advance(12.5)

    assert value(scraped(metrics, scene.live), "hostler_queue_age_seconds") == 12.5
    assert value(scraped(metrics), "hostler_queue_age_seconds") == 0


def test_ends_are_counted_by_outcome_and_family() -> None:
    """What never ran has no times; a worker whose clock is behind gives no negative ones."""
    metrics = Metrics(ManualClock())
    metrics.observe_ended(SECOND_US, 2 * SECOND_US, 5 * SECOND_US, "succeeded", "native")
    metrics.observe_ended(SECOND_US, 2 * SECOND_US, 2 * SECOND_US, "succeeded", "pixyz")
    metrics.observe_ended(9 * SECOND_US, 2 * SECOND_US, 1 * SECOND_US, "failed", "native")
    metrics.observe_ended(SECOND_US, 0, SECOND_US, "stopped", "native")

    found = scraped(metrics)

    def ended(outcome: str, family: str) -> float:
        return value(found, "hostler_jobs_finished_total", outcome=outcome, family=family)

    assert ended("succeeded", "native") == ended("succeeded", "pixyz") == ended("stopped", "native") == 1
    assert value(found, "hostler_dispatch_seconds_count") == 3
    assert value(found, "hostler_dispatch_seconds_sum") == 2
    assert value(found, "hostler_dispatch_seconds_bucket", le="1.0") == 3
    assert value(found, "hostler_run_seconds_count", outcome="succeeded") == 2
    assert value(found, "hostler_run_seconds_sum", outcome="succeeded") == 3
    assert value(found, "hostler_run_seconds_sum", outcome="failed") == 0
    assert value(found, "hostler_run_seconds_count", outcome="stopped") == 0


def test_a_wait_is_counted_only_of_what_ran_first() -> None:
    """A retry or a later stage began long after its job was accepted, and that was no wait."""
    metrics = Metrics(ManualClock())
    scene = Scene()

    key = scene.running(retries=1)
    scene.wait(60)
    scene.say(ended(key, exit_code=1))
    scene.wait(60)
    scene.tick()
    (sent,) = scene.place()
    scene.say(started(sent.key))
    scene.say(ended(sent.key))
    over = scene.last(Ended)
    metrics.observe_ended(over.queued_at_us, over.started_at_us, over.ended_at_us, over.outcome.word, over.family)

    found = scraped(metrics)
    assert value(found, "hostler_dispatch_seconds_count") == 0
    assert value(found, "hostler_run_seconds_count", outcome="succeeded") == 1


def test_commits_and_log_bytes_add_up() -> None:
    """How long, how many together, how much."""
    metrics = Metrics(ManualClock())
    metrics.observe_commit(0.003, 1)
    metrics.observe_commit(20.0, 70)
    metrics.observe_log_bytes(5)
    metrics.observe_log_bytes(6)

    found = scraped(metrics)

    assert value(found, "hostler_commit_seconds_bucket", le="0.005") == 1
    assert value(found, "hostler_commit_seconds_bucket", le="+Inf") == 2
    assert value(found, "hostler_commit_seconds_sum") == 20.003
    assert value(found, "hostler_commit_changes_bucket", le="1.0") == 1
    assert value(found, "hostler_commit_changes_sum") == 71
    assert value(found, "hostler_log_bytes_total") == 11


def test_a_submitter_cannot_make_series_without_end() -> None:
    """The family is their word: above a number of families they are put together."""
    metrics = Metrics(ManualClock())
    scene = Scene(max_queued=10_000)
    for number in range(3 * FAMILIES_MAX):
        metrics.observe_ended(1, 2, 3, "failed", f"family {number}")
        scene.queue(family=f"family {number}")

    found = scraped(metrics, scene.live)

    assert len(found["hostler_jobs_finished"].samples) == len(found["hostler_jobs"].samples) == FAMILIES_MAX + 1
    assert value(found, "hostler_jobs", state="queued", family="other") == 2 * FAMILIES_MAX
    assert value(found, "hostler_jobs_finished_total", outcome="failed", family="other") == 2 * FAMILIES_MAX


def test_any_family_is_a_label() -> None:
    """Quotes, line ends and backslashes too."""
    metrics = Metrics(ManualClock())
    metrics.observe_ended(1, 2, 3, "failed", 'a"b\\c\nd')

    assert value(scraped(metrics), "hostler_jobs_finished_total", outcome="failed", family='a"b\\c\nd') == 1
