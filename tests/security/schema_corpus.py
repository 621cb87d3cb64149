"""What is wrong by the OpenAPI document itself: schemathesis in its negative mode, on the document that is served."""

from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.security.http_cases import Case, request

# What would wait, or is told apart by its framing alone.
_LEFT_OUT = ("host", "connection", "content-length", "transfer-encoding", "x-schemathesis-testcaseid", "user-agent")


def schema_cases(document: Any, *, first_seed: int, count: int) -> Iterator[Case]:
    """Yield *count* cases, of every operation in turn in which there is something to be wrong."""
    loaded = schemathesis.openapi.from_dict(document)
    operations: list[Any] = [result.ok() for result in loaded.get_all_operations() if isinstance(result, Ok)]
    Random(first_seed).shuffle(operations)
    round_number = given_out = 0
    each = min(50, max(5, count // len(operations)))  # to begin with an operation takes longer than a case
    while given_out < count and operations:
        for operation in list(operations):
            made = _some(operation, number=first_seed + round_number, count=each)
            if not made:
                operations.remove(operation)  # nothing is asked for, so nothing can be wrong
            for case in made[: count - given_out]:
                given_out += 1
                yield case
        round_number += 1


def _some(operation: Any, *, number: int, count: int) -> list[Case]:
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def collect(case: Any) -> None:
        made = _case(case)
        if made is not None:
            found.append(made)

    try:
        collect()
    except Unsatisfiable:
        return []
    return found


def _case(case: Any) -> Case | None:
    try:
        prepared = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()
    except (requests.RequestException, ValueError, UnicodeError):
        return None  # it is no request that a client could send
    if prepared.method is None or prepared.url is None:
        return None
    parts = urlsplit(prepared.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = tuple(
        f"{name}: {value.decode('latin-1') if isinstance(value, bytes) else value}".encode("latin-1", "replace")
        for name, value in prepared.headers.items()
        if name.lower() not in _LEFT_OUT
    )
    body: Any = prepared.body
    content = body.encode() if isinstance(body, str) else body
    return Case(
        kind="schema",
        name=f"{prepared.method} {case.operation.path}",
        raw=request(prepared.method, target, content, headers),
        method=prepared.method,
        path=case.operation.path.replace("{", "").replace("}", ""),
        refused=False,
        silent=False,
    )
