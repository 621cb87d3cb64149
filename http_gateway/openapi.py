"""The OpenAPI document: made of the families' values, their handlers' operations, and the rules of the routes. Pure.

A path stands there once, at the first place where its family is mounted, without a slash at its end; the other places
are the path's `servers`. HEAD is as GET and not listed. What the document cannot say (the parameters of a path may
hold slashes where an output file is named) stands in the descriptions.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel

import hostler
from hostler.errors import TO_HTTP, ErrorCode, InternalError
from hostler.policy import Door
from hostler.workloads import NAME
from http_gateway.api import Api
from http_gateway.operations import JSON, Answer, Body, Operation, Schema, operation_of
from http_gateway.route_policy import RoutePolicy, Rule

VERSION = "3.1.0"
# What can meet every request, whatever its family: no HTTP, callers, limits, and the coordinator.
EVERYWHERE = (400, 401, 403, 421, 429, 500, 503, 504)
OF_BODIES = (408, 413, 415)
# Errors of every operation that says something wrong; the family decides about the status.
OF_EVERY_OPERATION = (ErrorCode.INVALID_REQUEST, ErrorCode.TOO_LARGE)
_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"\{([A-Za-z_]+)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
_DESCRIPTION = """\
The interfaces of one gateway. Each group is an API of its own, with its own form of errors; those besides `/v1` are
kept as their documents have them. Bodies are read as JSON whatever their Content-Type says, at most 64 levels deep,
without duplicate keys. HEAD is answered wherever GET is, but for streams.

On the host itself, programs of the user who started hostler need no key. Everywhere else a key is sent as `x-api-key`
or as `Authorization: Bearer`; what it must allow is said with each operation.
"""

Document = dict[str, Any]


def document_of(apis: Iterable[Api], policy: RoutePolicy) -> Document:
    """Make the document of an application's families.

    Raises:
        InternalError: a handler says nothing about itself.
    """
    schemas: Document = {}
    paths: Document = {}
    tags: list[Document] = []
    for api in apis:
        error = _error_name(api)
        schemas[error] = _plain(api.error_schema)
        for route in _once(api.routes):
            path = _path_of(api, route)
            item = paths.setdefault(path, _place(api))
            item[route.method.lower()] = _operation(api, route, path, policy, schemas)
        tags.append({"name": api.name, "description": _first_line(sys.modules[_module_of(api)].__doc__)})
    return {
        "openapi": VERSION,
        "info": {"title": "hostler", "version": hostler.__version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _once(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """The routes of a family without those that are another spelling of one before."""
    found: dict[tuple[str, str], web.RouteDef] = {}
    for route in routes:
        found.setdefault((route.method, route.path.rstrip("/")), route)
    return list(found.values())


def _path_of(api: Api, route: web.RouteDef) -> str:
    return _PARAMETER.sub(r"{\1}", (api.prefixes[0] + route.path).rstrip("/") or "/")


def _place(api: Api) -> Document:
    """What a path says before its methods: where else it is."""
    if len(api.prefixes) == 1:
        return {}
    first = api.prefixes[0]
    others = [prefix.removesuffix(first) if first else prefix for prefix in api.prefixes]
    return {"servers": [{"url": other or "/"} for other in others]}


def _operation(api: Api, route: web.RouteDef, path: str, policy: RoutePolicy, schemas: Document) -> Document:
    said = operation_of(route.handler)
    if said is None:
        raise InternalError(f"the handler of {route.method} {path} has no operation: see http_gateway/operations.py")
    rule = policy.rule_named(route.method, path)
    lines = inspect.getdoc(route.handler) or ""
    summary, _, more = lines.partition("\n")
    names = _PARAMETER.findall(path)
    shown: Document = {
        "tags": [api.name],
        "summary": summary.rstrip("."),
        "operationId": f"{api.name}.{route.handler.__name__}",
        "description": "\n\n".join(filter(None, (more.strip(), _needs(rule)))),
        "parameters": [_path_parameter(name, route.path) for name in names] + _query(said),
        "responses": _responses(api, said, names, schemas),
        "security": [] if rule.door is Door.ANYBODY else [{}, {"x-api-key": []}, {"bearer": []}],
    }
    if said.body is not None:
        shown["requestBody"] = _body(said.body, schemas)
    return shown


def _needs(rule: Rule) -> str:
    if rule.door is Door.ANYBODY:
        return "Needs no key."
    scopes = ", ".join(f"`{scope}`" for scope in rule.scopes)
    text = f"Needs the scopes {scopes}." if scopes else "Needs any key."
    return text + (" Callers of `admitted_networks` need no key." if rule.networks else "")


def _path_parameter(name: str, path: str) -> Document:
    schema: Document = {"type": "string", "minLength": 1}
    if name == "job_uuid" or (name == "id" and path.startswith("/jobs/")):
        schema = {"type": "string", "format": "uuid"}
    elif name in ("name", "process_name"):
        schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    shown: Document = {"name": name, "in": "path", "required": True, "schema": schema}
    if f"{{{name}:" in path:
        shown["description"] = "It may hold slashes."
    return shown


def _query(said: Operation) -> list[Document]:
    found = []
    for name, schema in said.query.items():
        shown: Document = {"name": name, "in": "query", "schema": _plain(schema)}
        if name in said.needed:
            shown["required"] = True
        found.append(shown)
    return found


def _responses(api: Api, said: Operation, names: list[str], schemas: Document) -> Document:
    found = {str(status): _answer(status, answer) for status, answer in said.answers.items()}
    refusals = {*EVERYWHERE, *said.refuses, *(api.statuses.get(code, TO_HTTP[code]) for code in OF_EVERY_OPERATION)}
    refusals |= set(OF_BODIES) if said.body is not None else set()
    refusals |= {api.statuses.get(ErrorCode.JOB_NOT_FOUND, 404)} if names else set()
    for status in sorted(refusals):
        # What is wrong is said in one form; 400 is also what aiohttp's parser answers to what is no HTTP.
        refused = {"$ref": _REF.format(model=_error_name(api))}
        text = HTTPStatus(status).phrase
        shown: Document = {"description": text, "content": {JSON: {"schema": refused}}}
        if status in (429, 503):
            shown["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
        found.setdefault(str(status), shown)
    return dict(sorted(found.items()))


def _answer(status: int, answer: Answer) -> Document:
    content = {media: {"schema": _plain(answer.schema)} for media in answer.media}
    shown: Document = {"description": answer.text or HTTPStatus(status).phrase}
    return {**shown, "content": content} if answer.media else shown


def _body(body: Body, schemas: Document) -> Document:
    schema = body.schema
    if isinstance(schema, type):
        shown = _model(schema, schemas)
        for name, item in body.items.items():
            schemas[schema.__name__]["properties"][name]["items"] = _model(item, schemas)
    else:
        shown = _plain(schema)
    content: Document = {media: {"schema": shown} for media in body.media}
    if body.examples:
        examples = {name: {"value": value} for name, value in body.examples.items()}
        content[body.media[0]]["examples"] = examples
    return {"required": body.required, "content": content}


def _model(model: type[BaseModel], schemas: Document) -> Document:
    """Put the schema of a model, and of all that it is made of, into *schemas*; return the reference to it."""
    made = model.model_json_schema(ref_template=_REF)
    schemas.update(made.pop("$defs", {}))
    schemas[model.__name__] = made
    return {"$ref": _REF.format(model=model.__name__)}


def _plain(schema: Schema) -> Document:
    """A schema as plain dictionaries and lists, which can be encoded and compared."""
    return {name: _plain_value(value) for name, value in schema.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    return [_plain_value(each) for each in value] if isinstance(value, list | tuple) else value


def _error_name(api: Api) -> str:
    return "".join(word.capitalize() for word in re.split(r"[^a-z]+", api.name)) + "Error"


def _module_of(api: Api) -> str:
    return str(api.routes[0].handler.__module__)


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]
