"""``/v1/workloads``: register definitions, look at them, remove them; and jobs that name them."""

from typing import Any

import pytest

from hostler.expansion import check_workload
from hostler.jobs import File
from hostler.workload_files import KINDS
from hostler.workloads import Runtime, Stdin, Workload
from http_gateway import bodies, large_bodies
from http_gateway.native_bodies import WorkloadItem
from tests.gateway.conftest import Answer, Caller
from tests.gateway.fake_coordinator import FakeCoordinator
from tests.gateway.fake_files import digest_of
from tests.gateway.test_native_files import the_error

SCRIPT = b"def main(ctx, params):\n    return 1\n"
FULL = {
    "name": "words",
    "documentation": "Count words.",
    "runtime": "python",
    "script": {"file": "words.py", "digest": digest_of(SCRIPT), "size_bytes": len(SCRIPT)},
    "entrypoint": "count",
    "interpreter": "/opt/py/bin/python",
    "params_schema": {"type": "object", "properties": {"top": {"type": "integer", "maximum": 10**30}}},
    "stdin": "job",
    "env": {"A": "\u00e4"},
    "cwd": "/tmp",
    "timeout_s": 1.5,
    "grace_s": 0,
    "output_bytes_max": 1000,
    "retries": 2,
    "retry_on": ["exit", "timeout"],
    "labels": {"gpu": "yes"},
    "slots": 2,
    "secrets": {"TOKEN": "model-token"},
    "external": False,
    "families": ["native"],
}


async def applied(gateway: Caller, *workloads: object) -> Answer:
    """POST definitions."""
    return await gateway.post("/v1/workloads", {"workloads": workloads})


async def test_a_definition_is_registered_with_every_field(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Those of a TOML file, with its defaults; each time that it differs it is a new version."""
    answer = await applied(gateway, FULL, {"name": "plain", "argv": ["true"]})

    assert answer.status == 200
    assert answer.json == {
        "workloads": [
            {"name": "words", "version": 1, "changed": True},
            {"name": "plain", "version": 1, "changed": True},
        ]
    }
    found = coordinator.workloads.known["words"]
    assert found == Workload(
        name="words",
        version=1,
        documentation="Count words.",
        runtime=Runtime.PYTHON,
        script=File(path="words.py", digest=digest_of(SCRIPT), size_bytes=len(SCRIPT)),
        entrypoint="count",
        interpreter="/opt/py/bin/python",
        params_schema=found.params_schema,
        stdin=Stdin.JOB,
        env={"A": "\u00e4"},
        cwd="/tmp",
        timeout_s=1.5,
        grace_s=0.0,
        output_bytes_max=1000,
        retries=2,
        retry_on=("exit", "timeout"),
        labels={"gpu": "yes"},
        slots=2,
        secrets={"TOKEN": "model-token"},
        external=False,
        families=("native",),
        applied_at_us=found.applied_at_us,
    )
    assert '"maximum": 1000000000000000000000000000000' in found.params_schema
    plain = coordinator.workloads.known["plain"]
    assert plain == Workload(name="plain", version=1, argv=("true",), applied_at_us=plain.applied_at_us)


def test_a_body_takes_the_keys_of_a_file() -> None:
    """One list of keys to learn."""
    assert set(WorkloadItem.model_fields) == set(KINDS)


async def test_what_is_shown_can_be_sent_back(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """With nulls, and with what only the coordinator can say: the definition stays what it is."""
    await applied(gateway, FULL, {"name": "plain", "argv": ["true"]})
    before = dict(coordinator.workloads.known)
    shown = (await gateway.get("/v1/workloads")).json["workloads"]

    again = await applied(gateway, *shown)

    assert again.status == 200
    assert [workload["name"] for workload in shown] == ["plain", "words"]
    for name, workload in coordinator.workloads.known.items():
        assert workload.version == 2
        assert before[name].params_schema == workload.params_schema
        assert check_workload(workload) is None
    assert (await gateway.get("/v1/workloads/words")).json["script"] == FULL["script"]


async def test_families_keep_nothing_from_v1(gateway: Caller) -> None:
    """They are about the documented APIs; this one is the operator's."""
    await applied(gateway, {"name": "w", "argv": ["true"], "families": ["altron"]})

    assert [shown["name"] for shown in (await gateway.get("/v1/workloads")).json["workloads"]] == ["w"]
    answer = await gateway.post("/v1/jobs", {"jobs": [{"workload": "w"}]})
    assert list(answer.json["jobs"][0]) == ["id"]


async def test_a_definition_is_shown_by_name_and_version(gateway: Caller) -> None:
    """0 and nothing are the newest; there is only what there is."""
    await applied(gateway, {"name": "w", "argv": ["one"]})
    await applied(gateway, {"name": "w", "argv": ["two"]})

    for query, argv in (("", "two"), ("?version=", "two"), ("?version=0", "two"), ("?version=1", "one")):
        assert (await gateway.get(f"/v1/workloads/w{query}")).json["argv"] == [argv]
    the_error(await gateway.get("/v1/workloads/w?version=3"), 404, "workload_not_found")
    for version in ("x", "-1", "1.0", "\u00b2", "9999999999", "9" * 30):
        the_error(await gateway.get(f"/v1/workloads/w?version={version}"), 400, "invalid_request", "version")


async def test_a_removed_workload_is_404_but_for_the_versions_that_jobs_ran(gateway: Caller) -> None:
    """Also for removing it again; registered again it is back."""
    await applied(gateway, {"name": "w", "argv": ["true"]})

    assert (await gateway.call("DELETE", "/v1/workloads/w")).json == {}

    assert (await gateway.get("/v1/workloads/w?version=1")).json["argv"] == ["true"]
    for method, query in (("GET", ""), ("GET", "?version=2"), ("DELETE", "")):
        the_error(await gateway.call(method, f"/v1/workloads/w{query}"), 404, "workload_not_found")
    assert (await gateway.get("/v1/workloads")).json == {"workloads": []}
    await applied(gateway, {"name": "w", "argv": ["true"]})
    assert (await gateway.get("/v1/workloads/w")).status == 200


async def test_a_name_that_no_workload_can_have_is_404(gateway: Caller) -> None:
    """Whatever bytes it is made of."""
    for name in ("none", "%ff", "%00", "a%2fb", "..%2fx", "x" * 200, "%0a", "%ed%a0%80"):
        for method in ("GET", "DELETE"):
            the_error(await gateway.call(method, f"/v1/workloads/{name}"), 404, "workload_not_found", _field(name))


def _field(name: str) -> str | None:
    return None if name == "none" else "name"  # the fake coordinator names no field


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"name": 1}, "name"), ({"name": "a b"}, "name"), ({"name": ""}, "name"), ({"argv": []}, "argv"),
    ({"argv": "true"}, "argv"), ({"argv": ["a", 1]}, "argv.1"), ({"argv": ["a\0"]}, "argv"),
    ({"runtime": "perl"}, "runtime"), ({"runtime": []}, "runtime"), ({"runtime": "python"}, "argv"),
    ({"runtime": "python", "argv": []}, "script"), ({"script": "x.py"}, "script"),
    ({"script": {"file": "x.py"}}, "script.digest"), ({"script": {"file": "x.py", "digest": "x"}}, "script"),
    ({"script": {"file": "x.py", "digest": "x", "path": "x"}}, "script.path"), ({"stdin": "file"}, "stdin"),
    ({"timeout_s": -1}, "timeout_s"), ({"timeout_s": 1e30}, "timeout_s"), ({"grace_s": "1"}, "grace_s"),
    ({"timeout": 1}, "timeout"), ({"output_bytes_max": -1}, "output_bytes_max"), ({"retries": 101}, "retries"),
    ({"retry_on": ["never"]}, "retry_on"), ({"labels": {"a": 1}}, "labels.a"), ({"labels": {"": "x"}}, "labels"),
    ({"slots": 0}, "slots"), ({"slots": 1.5}, "slots"), ({"secrets": {"HOSTLER_X": "x"}}, "secrets"),
    ({"secrets": {"A": "b c"}}, "secrets"), ({"external": 1}, "external"), ({"families": ["x"]}, "families"),
    ({"params_schema": "x"}, "params_schema"), ({"params_schema": {"type": "nothing"}}, "params_schema"),
    ({"params_schema": {"$ref": "http://localhost/"}}, "params_schema"), ({"env": {"A=B": "x"}}, "env"),
    ({"documentation": "x" * 70_000}, "documentation"), ({"interpreter": "python"}, "interpreter"),
)  # fmt: skip


async def test_a_definition_that_is_wrong_is_refused_by_name_and_field_and_nothing_is_registered(
    gateway: Caller, coordinator: FakeCoordinator
) -> None:
    """All or none."""
    good = {"name": "good", "argv": ["true"]}
    for wrong, field in WRONG:
        answer = await applied(gateway, good, {"name": "bad", "argv": ["true"], **wrong})

        named = f"workload {wrong.get('name', 'bad')!r}: " if wrong.get("name") != 1 else "workloads.1: "
        assert answer.status == (413 if "documentation" in wrong else 400), (wrong, answer.text)
        assert answer.json["error"]["field"] == field, (wrong, answer.text)
        assert answer.json["error"]["message"].startswith(named), (wrong, answer.text)
        assert not any(word in answer.text for word in ("nput should", "instance of", "valid str", "pydantic"))
        assert not coordinator.workloads.known


async def test_a_list_of_definitions_that_is_wrong_is_refused(gateway: Caller, coordinator: FakeCoordinator) -> None:
    """Twice the same name, what is no object, too many; none at all is no error."""
    one = {"name": "w", "argv": ["true"]}
    assert "'w' is there twice" in the_error(await applied(gateway, one, one), 400, "invalid_request", "name")
    wrong: object
    for wrong in (None, [], "w", 5):
        the_error(await applied(gateway, one, wrong), 400, "invalid_request", "workloads.1")
    the_error(await applied(gateway, {"argv": ["true"]}), 400, "invalid_request", "name")
    many = [{"name": f"w{n}", "argv": ["true"]} for n in range(1001)]
    the_error(await applied(gateway, *many), 413, "too_large", "workloads")
    for body, field in (([], None), ({}, "workloads"), ({"workloads": {}}, "workloads"), ({"workload": []}, None)):
        answer = await gateway.post("/v1/workloads", body)
        assert answer.status == 400
        assert field is None or answer.json["error"]["field"] == field
    assert (await applied(gateway)).json == {"workloads": []}
    assert not coordinator.workloads.known
    assert len((await applied(gateway, *many[:1000])).json["workloads"]) == 1000


async def test_only_a_few_large_bodies_are_held_at_once(gateway: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are served all the while."""
    monkeypatch.setattr(large_bodies, "LARGE_BODIES_MAX", 0)
    large = {"name": "w", "argv": ["true"], "documentation": "x" * bodies.BODY_BYTES_MAX}

    answer = await applied(gateway, large)

    the_error(answer, 429, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await applied(gateway, {"name": "w", "argv": ["true"]})).status == 200
