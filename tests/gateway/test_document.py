"""/openapi.json and /docs: the document says of every route what is so, and its examples are good."""

import io
import json
import re
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from hostler.client import Client
from hostler.jobs import Container
from hostler.settings import load
from hostler.workloads import Runtime, Workload
from http_gateway.app import make_app
from http_gateway.callers import UNSAID
from http_gateway.route_policy import RULES, name_of
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import WORKER, FakeCoordinator, a_worker, finished, running
from tests.support.api_document import ApiDocument, Found, prefixes_of

DOCUMENTS = Path(__file__).parents[2] / "docs"
SOURCES = (*sorted((DOCUMENTS / "apis").glob("*.md")), DOCUMENTS / "http-api.md")
JOB = "4c5ced1c-5ea9-40f8-90ce-63d09cea26f6"  # of the documents
PLACES = {"$H": "", "$J": JOB, "$W": WORKER, "http://127.0.0.1:8080": "", "http://localhost:8080": "", "UUID": JOB}
# A line that reads a file that is not here.
NOT_HERE = ("scene", "convert.py", "count.toml")


@pytest.fixture
async def document(gateway: Caller) -> ApiDocument:
    """The document as it is served."""
    return ApiDocument((await gateway.get("/openapi.json")).json)


@pytest.fixture
async def prepared(coordinator: FakeCoordinator, gateway: Caller) -> AsyncIterator[Caller]:
    """A gateway in whose cluster everything is that the examples name."""
    coordinator.workers = [replace(a_worker(), id=WORKER)]
    coordinator.on_submit = lambda job: finished(job, result=b'{"text": "a"}')
    names = (
        "echo",
        "sum",
        "sleep",
        "count",
        "planner",
        "bot",
        "altron_job",
        "altron_reply",
        "text-clean",
        "text-stats",
    )
    coordinator.workloads.add(
        *(Workload(name=name, documentation="A program.", argv=("true",)) for name in names),
        Workload(name="twice", runtime=Runtime.CONTAINER, container=Container(image="i"), documentation="Twice."),
    )
    yield gateway


# The document


async def test_every_route_is_in_the_document_and_nothing_else(tmp_path: Path, document: ApiDocument) -> None:
    """At every place where its family is mounted; a slash at the end and HEAD are not said apart."""
    async with Client(f"unix:{tmp_path}/c.sock", principal=UNSAID) as client:
        app = make_app(client, load(data_dir=tmp_path))
    routes = {name_of(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    documented = {
        name_of(method.upper(), prefix + path)
        for path, item in document.value["paths"].items()
        for method in item
        if method != "servers"
        for prefix in prefixes_of(item)
    }

    assert documented == routes
    assert {name_of(found.method.upper(), found.path) for found in document.operations()} == set(RULES)


async def test_the_document_is_valid_openapi_3_1(document: ApiDocument) -> None:
    """By a validator that is not ours; its examples are checked below."""
    assert document.value["openapi"] == "3.1.0"
    assert not list(OpenAPIV31SpecValidator(document.value).iter_errors())


async def test_what_a_caller_needs_is_that_of_the_policy(document: ApiDocument) -> None:
    """Every scope of its rule, and the two ways to show a key."""
    for found in document.operations():
        rule = RULES[name_of(found.method.upper(), found.path)]
        assert all(f"`{scope}`" in found.value["description"] for scope in rule.scopes), found
        assert bool(found.value["security"]) == ("Needs no key." not in found.value["description"])
    assert set(document.value["components"]["securitySchemes"]) == {"x-api-key", "bearer"}


async def test_every_refusal_of_a_family_is_in_its_own_form(document: ApiDocument) -> None:
    """Each status above 399 that is documented for an operation has the schema of its family's errors."""
    for found in document.operations():
        for status, answer in found.value["responses"].items():
            if int(status) >= 400 and found.family != "health":
                (content,) = answer["content"].values()
                assert content["schema"]["$ref"].endswith("Error"), (found.path, status)


# The page


async def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(gateway: Caller) -> None:
    """It works under a policy that allows nothing but its own style sheet."""
    async with gateway.session.get(gateway.url + "/docs") as answer:
        page, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        assert (answer.status, answer.content_type) == (200, "text/html")
    links = re.findall(r'(?:href|src)="([^"#][^"]*)"', page)

    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy.split("; "))
    assert "<script" not in page
    assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:", page)
    assert set(links) == {"/docs/style.css", "/openapi.json"}
    for link in links:
        async with gateway.session.get(gateway.url + link) as answer:
            assert answer.status == 200


async def test_the_page_shows_every_operation_and_every_schema(gateway: Caller, document: ApiDocument) -> None:
    """By the words of the document, escaped."""
    async with gateway.session.get(gateway.url + "/docs") as answer:
        page = await answer.text()

    assert page.count('class="method"') == len(document.operations())
    for name in document.value["components"]["schemas"]:
        assert f'id="schema-{name}"' in page


# Examples


async def test_every_example_of_the_document_is_good_and_answered_as_it_says(
    prepared: Caller, coordinator: FakeCoordinator, document: ApiDocument
) -> None:
    """With an answer of the documented status and form, and not a refusal where the cluster has what it names."""
    seen = 0
    for found in document.operations():
        content = found.value.get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, example in content.get("examples", {}).items():
            assert not document.body_errors(found, example["value"]), (found.path, name)
            coordinator.jobs[JOB] = await a_job(prepared, coordinator, family_of(found), found.path)
            path = found.path.replace("{id}", WORKER if "/workers/" in found.path else JOB)
            body = io.BytesIO(json.dumps(example["value"]).encode())
            await check_answer(prepared, document, found, found.method, path, {"data": body}, good=True)
            seen += 1
    assert seen >= 15


def curls() -> list[list[str]]:
    """The arguments of every curl command in the documents that reads no file."""
    found = []
    for source in SOURCES:
        text = source.read_text().replace("\\\n", " ")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            for command in re.findall(r"curl ((?:'[^']*'|\"[^\"]*\"|\$\([^)]*\)|[^'\"|\n)#;&>])*)", block):
                for place, value in PLACES.items():
                    command = re.sub(rf"'{re.escape(place)}'|{re.escape(place)}", value, command)
                if not any(name in command for name in (*NOT_HERE, "$D", "-T ", "@/")):
                    found.append(shlex.split(command))
    return found


def request_of(arguments: list[str]) -> tuple[str, str, dict[str, Any]]:
    """The method, the path and the rest of a call of curl."""
    method, path, form = "", "", aiohttp.FormData(default_to_multipart=True)
    options: dict[str, Any] = {}
    headers: dict[str, str] = {}
    parts, texts = 0, []
    rest = iter(arguments)
    for word in rest:
        if word in ("-X", "-o", "-C", "-H", "-F", "-d"):
            value = next(rest)
            if word == "-X":
                method = value
            elif word == "-H":
                name, _, said = value.partition(": ")
                headers[name] = said
            elif word == "-F":
                form.add_field(*value.split("=", 1))
                parts += 1
            elif word == "-d":
                texts.append(value)
        elif word == "-sI":
            method = "HEAD"
        elif not word.startswith("-"):
            path = word
    if parts:
        options["data"] = form
    elif texts:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        options["data"] = "&".join(texts).encode()
    return method or ("POST" if parts or texts else "GET"), path, {**options, "headers": headers}


async def test_every_call_of_the_documents_replays_against_the_document(
    prepared: Caller, coordinator: FakeCoordinator, document: ApiDocument
) -> None:
    """It names an operation that is there, its body is one that this reads, and the answer is one it promises."""
    seen = set()
    for arguments in curls():
        method, path, options = request_of(arguments)
        found = document.find(method, path.partition("?")[0])
        assert found is not None, (method, path)
        coordinator.jobs[JOB] = await a_job(prepared, coordinator, family_of(found), found.path)
        coordinator.outputs[JOB] = {"sorted": b"a\n", "out.txt": b"b\n"}
        body = options.get("data")
        if isinstance(body, bytes) and body[:1] in b"[{":
            assert not document.body_errors(found, json.loads(body)), arguments
        options["headers"].pop("x-api-key", None)  # a placeholder of the document
        await check_answer(prepared, document, found, method, path, options, good=False)
        seen.add(found.path)
    assert len(seen) >= 25, seen


async def test_every_endpoint_of_the_kept_documents_is_in_the_document(document: ApiDocument) -> None:
    """As they name their endpoints and methods."""
    text = (DOCUMENTS / "apis" / "altron.md").read_text()
    for endpoint, method in re.findall(r'"endpoint": "/?([^"]+)"\s*"method": "([A-Z]+)"', text):
        assert document.find(method, f"/{endpoint}") is not None
        assert document.find(method, f"/altron/{endpoint}") is not None


# What they need


async def check_answer(
    gateway: Caller,
    document: ApiDocument,
    found: Found,
    method: str,
    path: str,
    options: dict[str, Any],
    *,
    good: bool,
) -> None:
    """Call, and hold the answer against the document."""
    async with gateway.session.request(method.upper(), gateway.url + path, **options) as answer:
        content = await answer.read()
        media = answer.content_type
        assert answer.status < 300 or not good, (method, path, content)
        assert answer.status < 500, (method, path, content)
        if method.upper() != "HEAD":
            problem = document.answer_errors(found, answer.status, media, content)
            assert not problem, (method, path, answer.status, problem, content[:500])


def family_of(found: Found) -> str:
    """The family whose jobs an operation sees; its own, or any."""
    return found.family if found.family in ("scheduler", "altron", "pixyz", "infernet") else ""


async def a_job(gateway: Caller, coordinator: FakeCoordinator, family: str, path: str) -> Any:
    """A job with the id of the documents, which runs where something is to be told to it."""
    made = await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})
    job = coordinator.jobs[made.json["jobs"][0]["id"]]
    job = replace(job, id=JOB, spec=replace(job.spec, family=family or job.spec.family, worker=WORKER))
    return running(replace(job, end=None)) if path.endswith("/signal") else job
