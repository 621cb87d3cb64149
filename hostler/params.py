"""Parameters of jobs: JSON text, checked against a workload's JSON Schema within limits that always hold.

Takes no clock and does no IO. ``jsonschema`` and ``re2`` are imported by the first schema: jobs and workloads
without one do not pay for them. Why a check cannot run for ever or reach outside, whatever schema and parameters:

- regular expressions run on RE2, whose time is linear in the text; what it does not know (look-around, references
  back) is refused with the schema;
- every keyword that is looked at counts, more when it is a long one or its error message is long; `CHECKS_MAX` is
  the end of it, for schemas whose branches multiply too;
- ``uniqueItems`` is decided in linear time, the library's way takes quadratic time for objects;
- only references inside the schema itself (``#...``) are known, so nothing is ever fetched.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from hostler.errors import HostlerError, InvalidRequest, TooLarge
from hostler.jobs import INLINE_BYTES_MAX

SCHEMA_BYTES_MAX = 64 * 1024
SCHEMA_OBJECTS_MAX = 2_000  # a second, once, when a schema is first seen: each is checked against the schema of schemas
CHECKS_MAX = 20_000  # at most half a second on a slow core, and room for an array of 4,000 objects of two fields
UNITS_PER_CHECK = 64  # entries or characters of a keyword's value that cost as much as one more check
CHARACTERS_PER_CHECK = 128  # of an error message
CACHED_SCHEMAS = 64  # at most 4 MiB of text, and as many validators
REASON_CHARACTERS_MAX = 500
PATTERN_MEMORY_BYTES_MAX = 1024 * 1024  # of one compiled regular expression
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Keyword = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


def check_schema(schema_text: str) -> HostlerError | None:
    """Say what makes *schema_text* unusable as the schema of parameters, or None; empty text is none at all."""
    if not schema_text:
        return None
    try:
        _checker(schema_text)
    except HostlerError as error:
        return error
    return None


def check_params(schema_text: str, params_text: str) -> HostlerError | None:
    """Say what makes *params_text* unacceptable to *schema_text*, or None.

    The text of the error has the place and the reason: ``params.duration: 'x' is not of type 'number'``.
    """
    try:
        check_value(schema_text, read_params(params_text))
    except HostlerError as error:
        return error
    return None


def read_params(text: str) -> Any:
    """Read parameters.

    Raises:
        TooLarge: there are more bytes than a job may carry.
        InvalidRequest: it is no JSON.
    """
    return _read(text, "params", INLINE_BYTES_MAX)


def check_value(schema_text: str, params: Any) -> None:
    """Check parameters that have been read.

    Raises:
        InvalidRequest: the schema does not allow them, or is unusable itself.
        TooLarge: checking them would take more than `CHECKS_MAX` steps.
    """
    if schema_text:
        _checker(schema_text).check(params)


def _read(text: str, field: str, bytes_max: int) -> Any:
    try:
        size = len(text.encode())
        if size > bytes_max:
            raise TooLarge(f"{field} has {size} bytes; at most {bytes_max}", field=field)
        return json.loads(text, parse_constant=no_constant, parse_float=_finite)
    except RecursionError:
        raise InvalidRequest(f"{field} is nested too deeply", field=field) from None
    except ValueError as error:  # also of numbers with thousands of digits, and of characters that are no text
        raise InvalidRequest(f"{field} is not JSON: {_short(str(error))}", field=field) from None


def no_constant(text: str) -> Any:
    """For `json.loads`: refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:50]} is too large a number")
    return number


class _Budget:
    """What is left of the steps of one check."""

    def __init__(self) -> None:
        self._left = CHECKS_MAX

    def renew(self) -> None:
        self._left = CHECKS_MAX

    def spend(self, checks: int) -> None:
        self._left -= checks
        if self._left < 0:
            raise TooLarge(
                f"params take more than {CHECKS_MAX} steps to check; give less at once, or simplify the schema",
                field="params",
            )


class _Checker:
    """A schema that was found usable, ready to check parameters, one at a time."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Prepare.

        Raises:
            InvalidRequest: the schema is unusable.
        """
        from jsonschema import Draft202012Validator, validators
        from jsonschema.exceptions import SchemaError
        from referencing import Registry

        extend: Any = validators.extend  # its stub has no types
        library: Any = Draft202012Validator
        # The class of a validator follows "$schema" wherever one stands, and that would be one without our limits.
        schema = {name: value for name, value in schema.items() if name != "$schema"}
        try:
            # Without format checks: the library tries patterns with Python's engine, and we use another.
            library.check_schema(schema, format_checker=None)
        except SchemaError as error:
            raise InvalidRequest(_text("params_schema", error), field="params_schema") from None
        self._budget = _Budget()
        self._turn = threading.Lock()
        limited = _keywords(_patterns(schema), self._budget)
        counted = {
            name: _counted(limited.get(name, keyword), self._budget) for name, keyword in library.VALIDATORS.items()
        }
        # An own registry, because the default one fetches what it does not know.
        self._validator = extend(library, counted)(schema, registry=Registry())
        self._check_references(schema)

    def check(self, params: Any) -> None:
        """Raise what is wrong with *params*."""
        from referencing.exceptions import Unresolvable

        try:
            with self._turn:
                self._budget.renew()
                error = next(self._validator.iter_errors(params), None)
        except RecursionError:
            raise InvalidRequest("params, or the schema for them, are nested too deeply", field="params") from None
        except UnicodeError:
            raise InvalidRequest("params hold half a surrogate pair, which is no text", field="params") from None
        except (ArithmeticError, Unresolvable) as wrong:
            raise InvalidRequest(f"params cannot be checked: {_short(str(wrong))}", field="params") from None
        if error is not None:
            raise InvalidRequest(_text("params", error), field="params")

    def _check_references(self, schema: dict[str, Any]) -> None:
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
        for where in _objects(schema):
            for name in ("$ref", "$dynamicRef"):
                target = where.get(name)
                if not isinstance(target, str):
                    continue
                if not target.startswith("#"):
                    raise _refused(f"{name} {target[:100]!r} leads outside; only #... within it is known")
                try:
                    resolver.lookup(target)
                except (Unresolvable, ValueError, LookupError, TypeError):
                    raise _refused(f"{name} {target[:100]!r} leads nowhere") from None


@lru_cache(maxsize=CACHED_SCHEMAS)
def _checker(schema_text: str) -> _Checker:
    schema = _read(schema_text, "params_schema", SCHEMA_BYTES_MAX)
    if not isinstance(schema, dict):
        raise _refused("it is no JSON object")
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.removesuffix("#") != DIALECT:
        raise _refused(f"its dialect is {str(dialect)[:100]!r}; the one that is known is {DIALECT}")
    names = set[str]()
    for number, where in enumerate(_objects(schema), start=1):
        if number > SCHEMA_OBJECTS_MAX:
            raise _refused(f"it has more than {SCHEMA_OBJECTS_MAX} objects")
        names.update(where)
        for name in ("$schema", "$id"):
            if where is not schema and isinstance(where.get(name), str):
                raise _refused(f"{name} may stand at its top only")
    if "unevaluatedProperties" in names and "patternProperties" in names:
        raise _refused("unevaluatedProperties and patternProperties cannot be used together")
    try:
        return _Checker(schema)
    except RecursionError:
        raise _refused("it is nested too deeply") from None


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the schema of params cannot be used: {reason}", field="params_schema")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


def _patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """Compile every regular expression of a schema."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES_MAX
    options.log_errors = False
    compiled: dict[str, Any] = {}
    for where in _objects(schema):
        named, keyed = where.get("pattern"), where.get("patternProperties")
        for pattern in (*([named] if isinstance(named, str) else ()), *(keyed if isinstance(keyed, dict) else ())):
            try:
                compiled[pattern] = compiled.get(pattern) or re2.compile(pattern, options)
            except (re2.error, UnicodeError):
                raise _refused(
                    f"the pattern {pattern[:100]!r} is none that RE2 knows (no look-around, no references back)"
                ) from None
    return compiled


def _counted(keyword: Keyword, budget: _Budget) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        size = len(value) if isinstance(value, str | list | dict) else 0
        budget.spend(1 + size // UNITS_PER_CHECK)
        for error in keyword(validator, value, instance, schema) or ():
            budget.spend(len(error.message) // CHARACTERS_PER_CHECK)
            yield error

    return check


def _keywords(patterns: dict[str, Any], budget: _Budget) -> dict[str, Keyword]:
    """The keywords whose time the library does not bound."""
    from jsonschema.exceptions import ValidationError

    def found(pattern: str, text: str) -> bool:
        budget.spend(1 + len(text) // UNITS_PER_CHECK)
        return patterns[pattern].search(text) is not None

    def pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, str) and not found(value, instance):
            yield ValidationError(f"{instance!r} does not match {value!r}")

    def pattern_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, dict):
            for one, inner in value.items():
                for name, item in instance.items():
                    if found(one, name):
                        yield from validator.descend(item, inner, path=name, schema_path=one)

    def additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(instance, dict):
            return
        known, keyed = schema.get("properties", {}), schema.get("patternProperties", {})
        extra = [name for name in instance if name not in known and not any(found(one, name) for one in keyed)]
        if value is False and extra:
            yield ValidationError(f"{', '.join(map(repr, extra))} is not among the properties that are allowed")
        elif isinstance(value, dict):
            for name in extra:
                yield from validator.descend(instance[name], value, path=name)

    def unique_items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if value and isinstance(instance, list) and len({_canonical(item) for item in instance}) < len(instance):
            yield ValidationError("two of its items are equal")

    return {
        "pattern": pattern,
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
        "uniqueItems": unique_items,
    }


def _canonical(value: Any) -> Any:
    """A hashable value that is equal for equal JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, list):
        return (list, tuple(_canonical(item) for item in value))
    if isinstance(value, dict):
        return (dict, frozenset((name, _canonical(item)) for name, item in value.items()))
    if isinstance(value, int | float):
        # As text, because the hashes of texts cannot be foreseen: numbers can be made to have the same one.
        return (float, str(int(value)) if value == int(value) else str(value))
    return value


def _text(root: str, error: Any) -> str:
    place = root
    for part in error.absolute_path:
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"{_short(place)}: {_short(error.message)}"


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARACTERS_MAX else f"{text[:REASON_CHARACTERS_MAX]}..."
