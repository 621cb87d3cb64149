"""JSON that programs leave, as it can stand in our answers: not rebuilt, whatever it holds. Pure.

What it is made of is not looked at more than needed: its numbers stay as they were written, a half of a
surrogate pair stays an escape, and depth costs nothing when it is copied.
"""

import json

import msgspec

_OBJECT_OF_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)


def is_json(raw: bytes) -> bool:
    """Whether some bytes can stand in a JSON answer as they are."""
    try:
        raw.decode()
        _RAW.decode(raw)
    except UnicodeDecodeError:
        return False
    except RecursionError:
        return False
    except ValueError:  # half of a surrogate pair is JSON too
        return _read_odd(raw) is not None
    return True


def raw_values(raw: bytes) -> dict[str, msgspec.Raw]:
    """Take a JSON object apart, one level; empty when it is none."""
    try:
        return _OBJECT_OF_RAW.decode(raw) if raw else {}
    except RecursionError:
        return {}
    except ValueError:  # no object, or one that holds half of a surrogate pair
        found = _read_odd(raw)
    if not isinstance(found, list) or not isinstance(found[0], dict):
        return {}
    try:
        return {str(name): msgspec.Raw(json.dumps(value).encode()) for name, value in found[0].items()}
    except RecursionError:
        return {}


def is_text(value: msgspec.Raw | None) -> bool:
    """Whether a value is a JSON text."""
    return value is not None and bytes(value).lstrip().startswith(b'"')


def is_list(value: msgspec.Raw | None) -> bool:
    """Whether a value is a JSON list."""
    return value is not None and bytes(value).lstrip().startswith(b"[")


def _read_odd(raw: bytes) -> list[object] | None:
    """Read JSON that only Python's own reader takes: in a list, or None."""
    try:
        return [json.loads(raw.decode(), parse_constant=_refuse)]
    except (ValueError, RecursionError):
        return None


def _refuse(text: str) -> None:
    raise ValueError(text)
