"""How a route is documented: on its handler, in words of which `http_gateway.openapi` makes the document. Pure.

``@documented(...)`` says what a handler reads and answers; what it does is said by its docstring, whose first line
is the summary. What holds for a whole family (the form of errors, their statuses, prefixes) is in its `Api`, and what
a caller needs is in `http_gateway.route_policy`: nothing of that is said here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel

Schema = Mapping[str, Any]
JSON = "application/json"
BYTES = "application/octet-stream"

ANY: Schema = MappingProxyType({})
TEXT: Schema = MappingProxyType({"type": "string"})
NUMBER: Schema = MappingProxyType({"type": "number"})
COUNT: Schema = MappingProxyType({"type": "integer", "minimum": 0})
WHOLE: Schema = MappingProxyType({"type": "integer"})
TRUTH: Schema = MappingProxyType({"type": "boolean"})
OBJECT: Schema = MappingProxyType({"type": "object"})
NULL: Schema = MappingProxyType({"type": "null"})
UUID: Schema = MappingProxyType({"type": "string", "format": "uuid"})


def fields(**schemas: Schema) -> Schema:
    """An object that has all of these keys, and perhaps others."""
    return {"type": "object", "properties": schemas, "required": list(schemas)}


def fields_and(required: Schema, **schemas: Schema) -> Schema:
    """An object as `fields` made it, that may have these keys besides."""
    return {**required, "properties": {**required["properties"], **schemas}}


def some_of(**schemas: Schema) -> Schema:
    """An object that may have these keys."""
    return {"type": "object", "properties": schemas}


def listed(schema: Schema) -> Schema:
    """A list of such things."""
    return {"type": "array", "items": schema}


def mapped(schema: Schema) -> Schema:
    """An object of such values by any names."""
    return {"type": "object", "additionalProperties": schema}


def or_null(schema: Schema) -> Schema:
    """Such a thing, or null."""
    return {"anyOf": [schema, NULL]}


def either(*schemas: Schema) -> Schema:
    """One of these, or something that is several of them."""
    return {"anyOf": list(schemas)}


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


def between(least: float, most: float) -> Schema:
    """A number."""
    return {"type": "number", "minimum": least, "maximum": most}


def whole_between(least: int, most: int) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": least, "maximum": most}


def described(schema: Schema, text: str) -> Schema:
    """The same, with a sentence about it."""
    return {**schema, "description": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a route reads."""

    schema: Schema | type[BaseModel]
    items: Mapping[str, type[BaseModel]] = field(default_factory=dict)  # lists whose items are checked one by one
    media: tuple[str, ...] = (JSON,)
    required: bool = True
    examples: Mapping[str, object] = field(default_factory=dict)  # by a name of a few words; each is good


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a route answers."""

    schema: Schema = field(default_factory=dict)
    media: tuple[str, ...] = (JSON,)
    text: str = ""  # when there is more to say than the status does


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one handler reads and answers."""

    answers: Mapping[int, Answer]
    query: Mapping[str, Schema] = field(default_factory=dict)  # none of them is required
    needed: frozenset[str] = frozenset()  # ... but these
    body: Body | None = None
    refuses: tuple[int, ...] = ()  # besides what holds for the whole family


Function = TypeVar("Function", bound=Callable[..., Any])
_NAME = "hostler_operation"


def documented(
    answers: Schema | Answer | Mapping[int, Answer],
    *,
    query: Mapping[str, Schema] | None = None,
    needed: tuple[str, ...] = (),
    body: Body | None = None,
    refuses: tuple[int, ...] = (),
) -> Callable[[Function], Function]:
    """Say what the handler below reads and answers.

    Args:
        answers: the schema of its only answer but for refusals, 200 in JSON; or all of them by their statuses.
        query: parameters by name.
        needed: those of them that must be there.
        body: what it reads.
        refuses: statuses that not every route of the family has.
    """
    known = {200: answers} if isinstance(answers, Answer) else _by_status(answers)
    operation = Operation(answers=known, query=query or {}, needed=frozenset(needed), body=body, refuses=refuses)

    def note(handler: Function) -> Function:
        setattr(handler, _NAME, operation)
        return handler

    return note


def _by_status(answers: Mapping[Any, Any]) -> Mapping[int, Answer]:
    by_status = answers and all(isinstance(status, int) for status in answers)
    return answers if by_status else {200: Answer(schema=answers)}


def operation_of(handler: Callable[..., object]) -> Operation | None:
    """Return what was said of a handler; None: nothing."""
    found: Operation | None = getattr(handler, _NAME, None)
    return found


def json_body(
    schema: Schema | type[BaseModel],
    *,
    items: Mapping[str, type[BaseModel]] | None = None,
    required: bool = True,
    **examples: object,
) -> Body:
    """A body in JSON, which is read as that whatever its Content-Type says; with good examples by their names."""
    return Body(schema=schema, items=items or {}, required=required, examples=examples)


def raw(media: str = BYTES, *, text: str = "") -> Answer:
    """An answer of bytes."""
    return Answer(schema=TEXT if media.startswith("text/") else ANY, media=(media,), text=text)
