"""The served OpenAPI document, as a judge: which operation a request is, and whether an answer is one it promises."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

BASE = "urn:hostler:document"


@dataclass(frozen=True, slots=True)
class Found:
    """An operation of the document."""

    path: str  # as the document has it
    method: str  # in lower case
    value: Any

    @property
    def pointer(self) -> str:
        """Where it stands in the document."""
        return f"/paths/{_escaped(self.path)}/{self.method}"

    @property
    def family(self) -> str:
        """The API that it belongs to."""
        return str(self.value["tags"][0])


class ApiDocument:
    """One document."""

    def __init__(self, document: Any) -> None:
        self.value = document
        resource = DRAFT202012.create_resource(document)
        self._registry: Any = Registry().with_resource(BASE, resource)
        found = [(prefix + path, path) for path, item in document["paths"].items() for prefix in prefixes_of(item)]
        # What is fixed goes before what is a parameter.
        self._paths = [(_pattern(full), path) for full, path in sorted(found, key=lambda each: each[0].count("{"))]
        self._validator = lru_cache(maxsize=None)(self._make_validator)

    def operations(self) -> list[Found]:
        """Every operation, in order."""
        return [
            Found(path, method, value)
            for path, item in self.value["paths"].items()
            for method, value in item.items()
            if method != "servers"
        ]

    def find(self, method: str, path: str) -> Found | None:
        """The operation that a request is; None: there is none."""
        name = {"HEAD": "get"}.get(method, method.lower())
        plain = path.rstrip("/") or "/"
        for pattern, documented in self._paths:
            value = self.value["paths"][documented].get(name)
            if value is not None and (pattern.fullmatch(path) or pattern.fullmatch(plain)):
                return Found(documented, name, value)
        return None

    def body_errors(self, found: Found, body: object) -> str:
        """Why a JSON body is none that an operation reads; empty: it is one."""
        return self._errors(f"{found.pointer}/requestBody/content/application~1json/schema", body)

    def answer_errors(self, found: Found, status: int, media: str, content: bytes) -> str:
        """Why an answer is none that an operation promises; empty: it is one."""
        answer = found.value["responses"].get(str(status))
        if answer is None:
            return f"the status {status} is not documented for {found.method} {found.path}"
        medias = answer.get("content", {})
        if not content and not medias:
            return ""
        if media not in medias:
            return f"{media} is not documented for {status} of {found.method} {found.path}"
        if media != "application/json":
            return ""
        pointer = f"{found.pointer}/responses/{status}/content/application~1json/schema"
        return self._errors(pointer, json.loads(content))

    def is_refusal_of(self, family: str, value: object) -> bool:
        """Whether a value has a family's form of errors."""
        name = "".join(word.capitalize() for word in family.split("_")) + "Error"
        return not self._errors(f"/components/schemas/{name}", value)

    def _errors(self, pointer: str, value: object) -> str:
        errors = sorted(self._validator(pointer).iter_errors(value), key=lambda error: len(error.path))
        return "; ".join(f"{error.json_path}: {error.message[:200]}" for error in errors[:3])

    def _make_validator(self, pointer: str) -> Any:
        return Draft202012Validator({"$ref": f"{BASE}#{pointer}"}, registry=self._registry)


def prefixes_of(item: Any) -> list[str]:
    """Where a path of the document is mounted."""
    return [server["url"].rstrip("/") for server in item.get("servers", [{"url": "/"}])]


def _escaped(text: str) -> str:
    escaped = text.replace("~", "~0").replace("/", "~1")
    return escaped.replace("{", "%7B").replace("}", "%7D")


def _pattern(path: str) -> re.Pattern[str]:
    pieces = re.split(r"\{([a-z_]+)\}", path)
    long = ("path", "file_path")
    return re.compile(
        "".join(
            (r"[\s\S]+" if piece in long else "[^/]+") if place % 2 else re.escape(piece)
            for place, piece in enumerate(pieces)
        )
    )
