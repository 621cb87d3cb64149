"""Registering workloads, and which workers may run them."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator import workload_decisions
from coordinator.capacity import ClassKey
from coordinator.changes import Change, WorkloadApplied, WorkloadRemoved
from coordinator.effects import Answer
from coordinator.placement import obstacle
from coordinator.standings import KeptStandings
from hostler.errors import WorkloadNotFound
from hostler.workloads import Applied, Origin, Workload
from tests.support.builders import W1, W2
from tests.support.scene import Scene


def a_workload(name: str = "render", **changes: Any) -> Workload:
    """A command that somebody applies."""
    return replace(Workload(name=name, argv=("render",)), **changes)


def apply(scene: Scene, *workloads: Workload) -> list[Applied]:
    """Register definitions; returns what became of each."""
    (answer,) = scene.do(workload_decisions.on_apply(scene.live, workloads, None, scene.now))
    assert isinstance(answer, Answer)
    found: list[Applied] = answer.value
    return found


def remove(scene: Scene, name: str) -> Any:
    """Remove a workload; returns the answer."""
    (answer,) = scene.do(workload_decisions.on_remove(scene.live, name, None, scene.now))
    assert isinstance(answer, Answer)
    return answer.value


def test_a_definition_gets_the_next_version_of_its_name() -> None:
    """From 1; the newest counts."""
    scene = Scene()

    assert apply(scene, a_workload()) == [Applied(name="render", version=1, changed=True)]
    assert apply(scene, a_workload(argv=("render", "-v"))) == [Applied(name="render", version=2, changed=True)]

    assert scene.live.workloads["render"].argv == ("render", "-v")


def test_the_same_definition_is_no_new_version() -> None:
    """Applying again changes nothing, so it can be done at every deployment."""
    scene = Scene()
    apply(scene, a_workload())
    length = len(scene.history)

    assert apply(scene, a_workload()) == [Applied(name="render", version=1, changed=False)]
    assert len(scene.history) == length


def test_a_removed_workload_is_gone_and_its_versions_go_on() -> None:
    """A version never means two definitions."""
    scene = Scene()
    apply(scene, a_workload())

    assert remove(scene, "render") is None
    assert scene.live.workloads == {}
    assert apply(scene, a_workload()) == [Applied(name="render", version=2, changed=True)]


def test_a_workload_that_is_not_there_cannot_be_removed() -> None:
    """The answer says so."""
    assert isinstance(remove(Scene(), "render"), WorkloadNotFound)


@pytest.mark.parametrize("origin", [Origin.SHIPPED, Origin.DIRECTORY])
def test_what_is_there_at_every_start_leaves_alone_what_somebody_applied(origin: Origin) -> None:
    """And does not bring back what somebody removed."""
    scene = Scene()
    apply(scene, a_workload(argv=("own",)), a_workload("other", origin=origin))
    remove(scene, "other")

    found = apply(scene, a_workload(origin=origin), a_workload("other", origin=origin))

    assert [one.changed for one in found] == [False, False]
    assert scene.live.workloads["render"].argv == ("own",) and "other" not in scene.live.workloads


def test_a_directory_replaces_what_ships_and_is_replaced_by_what_is_applied() -> None:
    """The more deliberate word counts."""
    scene = Scene()
    for argv, origin in (("shipped", Origin.SHIPPED), ("found", Origin.DIRECTORY), ("applied", Origin.APPLIED)):
        assert apply(scene, a_workload(argv=(argv,), origin=origin))[0].changed
    assert not apply(scene, a_workload(argv=("found",), origin=Origin.DIRECTORY))[0].changed


def test_what_somebody_applied_stays_his_also_when_it_shipped_the_same() -> None:
    """A newer package then no longer replaces it."""
    scene = Scene()
    apply(scene, a_workload(origin=Origin.SHIPPED))

    assert apply(scene, a_workload()) == [Applied(name="render", version=2, changed=True)]
    assert apply(scene, a_workload()) == [Applied(name="render", version=2, changed=False)]

    apply(scene, a_workload(argv=("newer",), origin=Origin.SHIPPED))
    assert scene.live.workloads["render"].argv == ("render",)


def test_a_newer_package_brings_its_newer_definitions() -> None:
    """As long as nobody has put another in its place."""
    scene = Scene()
    apply(scene, a_workload(origin=Origin.SHIPPED))

    (found,) = apply(scene, a_workload(argv=("newer",), origin=Origin.SHIPPED))

    assert found == Applied(name="render", version=2, changed=True)


def test_changes_of_workloads_lead_to_the_same_live_set_again() -> None:
    """They are what is loaded at a start."""
    scene, again = Scene(), Scene()
    apply(scene, a_workload(), a_workload("gone"))
    remove(scene, "gone")
    kept: list[Change] = [c for c in scene.history if isinstance(c, WorkloadApplied | WorkloadRemoved)]

    for change in kept:
        again.apply(change)

    assert again.live.workloads == scene.live.workloads
    assert again.live.workload_versions == scene.live.workload_versions


# Placement

PYTHON = ClassKey("", (), 1, "python", "render")


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"runtimes": ("command", "python")}, ""),
        ({"runtimes": ("command", "python"), "workloads": ("re*",)}, ""),
        ({"runtimes": ("command", "python"), "workloads": ("thumbnails", "r?nder")}, ""),
        ({"runtimes": ("command",)}, "has no runtime python"),
        ({"runtimes": ("command", "python"), "workloads": ("thumbnails",)}, "does not take the workload render"),
    ],
)
def test_a_worker_gets_only_what_it_says_it_can_run(hello: dict[str, Any], why: str) -> None:
    """Each way to say no has its reason."""
    scene = Scene()
    scene.join(**hello)

    found = obstacle(scene.worker(), PYTHON)
    assert (found.text if found is not None else "") == why


def test_a_worker_that_takes_only_some_workloads_takes_plain_commands() -> None:
    """What it takes of commands is another setting."""
    scene = Scene()
    scene.join(workloads=("thumbnails",))

    assert obstacle(scene.worker(), ClassKey("", (), 1)) is None


def test_a_job_of_a_workload_goes_to_the_worker_that_takes_it() -> None:
    """And says why it waits when there is none."""
    scene = Scene()
    scene.join(W1, runtimes=("command", "python"), workloads=("thumbnails",))
    (job,) = scene.queue(runtime="python", workload="render")
    assert scene.place() == []
    (why,) = KeptStandings().reasons(scene.live, scene.job(job).placement.key)
    assert why.text == "1 worker does not take the workload render"

    scene.join(W2, runtimes=("command", "python"))
    (sent,) = scene.place()

    assert sent.worker == W2
