"""Parameters are JSON, fit their schema, and are checked within limits that hold for the worst of both."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hostler.errors import InvalidRequest, TooLarge
from hostler.params import SCHEMA_BYTES_MAX, check_params, check_schema, read_params

WHOLE_CHECK_S = 20.0  # of the machine that is busy with everything else; a check that has no end takes hours
DURATION = {"type": "object", "properties": {"duration": {"type": "number"}}, "required": ["duration"]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "array", "string", "number", "integer", "null"]),
        "pattern": st.sampled_from(["^a", "b$", "."]),
        "uniqueItems": st.booleans(),
        "patternProperties": st.just({"^a": {"type": "integer"}}),
        "additionalProperties": st.sampled_from([True, False, {"type": "string"}]),
        "properties": st.just({"b": {"enum": [1, "a", None]}}),
        "required": st.lists(st.sampled_from(["a", "b"]), unique=True, max_size=2),
        "items": st.sampled_from([{"type": "integer"}, {"maxLength": 1}, {"uniqueItems": True}]),
    },
)


def checked(schema: Any, params: Any) -> str:
    """What is wrong; nothing is an empty text."""
    error = check_params(json.dumps(schema), json.dumps(params))
    return "" if error is None else error.message


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"duration": "x"}, "params.duration: 'x' is not of type 'number'"),
        ({}, "params: 'duration' is a required property"),
        ([], "params: [] is not of type 'object'"),
        ({"duration": 1.5}, ""),
    ],
)
def test_an_error_has_the_place_and_the_reason(params: Any, reason: str) -> None:
    """So that one knows what to change."""
    assert checked(DURATION, params) == reason
    assert "params[1].a: 'x'" in checked({"items": {"properties": {"a": {"type": "null"}}}}, [{}, {"a": "x"}])


@given(schema=SCHEMAS, params=VALUES)
@settings(max_examples=150, deadline=None)
def test_what_is_allowed_is_what_the_library_allows(schema: Any, params: Any) -> None:
    """Our own keywords, which bound its time, decide as it does."""
    assert (checked(schema, params) == "") == Draft202012Validator(schema).is_valid(params)


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "1e999", "[" * 100_000, "1" * 5000, '{"a": 1} x', "\ud800"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    """Also without a schema, and what only Python takes for JSON."""
    with pytest.raises(InvalidRequest):
        read_params(text)
    assert isinstance(check_params("", text), InvalidRequest)


@pytest.mark.parametrize(
    "schema",
    [
        [],
        {"type": "nmber"},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/none"},
        {"pattern": "(?=look)"},
        {"pattern": "(a)\\1"},
        {"pattern": "("},
        {"patternProperties": {"(?!x)": {}}},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
        {"properties": {"a": {"$id": "http://example.com/"}}},
        {"unevaluatedProperties": False, "patternProperties": {"a": {}}},
        {"allOf": [{}] * 3000},
        {"description": "x" * SCHEMA_BYTES_MAX},
        {"minimum": float("nan")},
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_when_it_comes(schema: Any) -> None:
    """Not when the first job does."""
    error = check_schema(json.dumps(schema))

    assert isinstance(error, InvalidRequest | TooLarge) and error.field == "params_schema"


def test_properties_may_be_named_like_keywords() -> None:
    """Only what stands where a keyword stands is one."""
    schema = {"properties": {name: {"type": "string"} for name in ("pattern", "$ref", "$schema", "$id", "items")}}

    assert check_schema(json.dumps(schema)) is None
    assert checked(schema, {"pattern": "(", "$ref": "x", "$schema": "y"}) == ""
    assert "params.pattern" in checked(schema, {"pattern": 1})


def doubling(levels: int) -> Any:
    """A schema that asks for 2 ** levels checks."""
    steps = {f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n - 1}"}] * 2} for n in range(1, levels + 1)}
    return {"$defs": {"s0": {"type": "integer"}} | steps, "$ref": f"#/$defs/s{levels}"}


@pytest.mark.parametrize(
    ("schema", "params"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 200_000 + "b"),
        ({"patternProperties": {"^(a|a)*$": False}}, {"a" * 100_000 + "b": 1}),
        ({"uniqueItems": True}, [{"a": n} for n in range(15_000)]),
        ({"uniqueItems": True}, [n * (2**61 - 1) for n in range(10_000)]),
        (doubling(40), 1),
        ({"anyOf": [{"type": "string"}] * 1000}, [1] * 80_000),
        ({"items": {"enum": [str(n) for n in range(8000)]}}, [7] * 80_000),
        ({"items": {"properties": {f"p{n}": True for n in range(1900)}}}, [{}] * 60_000),
        ({"$ref": "#"}, 1),
        ({"multipleOf": 0.5}, 10**4000),
        ({"pattern": "a"}, "\ud800"),
    ],
)
def test_no_schema_and_no_parameters_take_for_ever(schema: Any, params: Any) -> None:
    """Whatever is answered, it is answered soon, and as an answer."""
    began = time.monotonic()

    error = check_params(json.dumps(schema), json.dumps(params, separators=(",", ":")))

    assert time.monotonic() - began < WHOLE_CHECK_S
    assert error is None or isinstance(error, InvalidRequest | TooLarge)


def test_a_large_ordinary_list_is_fine() -> None:
    """The limit is not in the way of what people do."""
    schema = {"items": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}}

    assert checked(schema, [{"x": n} for n in range(3000)]) == ""


def test_who_uses_no_schema_does_not_load_the_libraries() -> None:
    """They take longer to load than a command may take."""
    program = (
        "import sys; from hostler.params import check_params; from hostler.expansion import expand;"
        "assert check_params('', '{}') is None;"
        "assert not {'jsonschema', 're2', 'referencing'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
