"""What a Python script says of itself, read from its source and never run: its entry point and what stands there.

Pure. Sources come from strangers, and a parser is at their mercy: what would cost it too much is refused beforehand
(1 MiB can be made to take 1 GB and 7 s; what is let through takes 0.4 GB and 1.5 s at the very worst, and an ordinary
script a few milliseconds). Call it in a thread where others wait.
The Python that reads is the one that runs this; a newer script may be refused by it.
"""

import ast
import codecs
import re
import tokenize
import warnings
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from threading import Lock
from typing import Any

from hostler.errors import InvalidRequest

SOURCE_BYTES_MAX = 1024 * 1024
WORDS_MAX = 200_000  # and signs, those of comments and strings as well; some twenty thousand lines
MESSAGE_CHARACTERS_MAX = 200
ENCODINGS_REFUSED = ("idna", "punycode")  # of host names; a megabyte takes the second minutes
ONE_AT_A_TIME = Lock()  # filters of warnings belong to the process, and so does the memory that a parser takes
DECORATOR = "pixyz_schedule"
WAITING_QUEUE = "control"  # where a script that waits for others runs when it names no queue
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFacts:
    """What the source says about its entry point."""

    documentation: str | None = None  # the docstring without its indentation
    defaults: dict[str, Any] = field(default_factory=dict)  # the literal settings of its decorator


def read_script(source: bytes, entrypoint: str) -> ScriptFacts:
    """Find the top-level function *entrypoint* and what is said there.

    Raises InvalidRequest when the source is not Python, is too large, or has no such function.
    """
    function = _function(_parse(source), entrypoint)
    if function is None:
        raise InvalidRequest(f"The script file does not have the function {entrypoint[:MESSAGE_CHARACTERS_MAX]}")
    documentation = ast.get_docstring(function)
    return ScriptFacts(
        documentation=None if documentation is None else _text(documentation),
        defaults=_defaults(function),
    )


def _parse(source: bytes) -> ast.Module:
    if len(source) > SOURCE_BYTES_MAX:
        raise _not_python(f"it has {len(source)} bytes; at most {SOURCE_BYTES_MAX}")
    text = _decoded(source)
    if "\0" in text:
        raise _not_python("it holds a NUL character", text.count("\n", 0, text.index("\0")) + 1)
    # Counted without regard to strings and comments: telling them apart is the parser's art, and would be fooled.
    if next(islice(WORD.finditer(text), WORDS_MAX, None), None) is not None:
        raise _not_python(f"it has more than {WORDS_MAX} words and signs; put its tables into a file")
    try:
        with ONE_AT_A_TIME, warnings.catch_warnings():
            # What a compiler would rather see otherwise is said when the script runs.
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise _not_python(error.msg, error.lineno or 1) from None
    except ValueError as error:
        raise _not_python(str(error), 1) from None
    except (RecursionError, MemoryError):
        raise _not_python("it is nested too deeply") from None


def _decoded(source: bytes) -> str:
    """Decode as the coding line says, or as UTF-8."""
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(source).readline)
        if codecs.lookup(encoding).name in ENCODINGS_REFUSED:
            raise _not_python(f"{encoding} is no encoding for a script", 1)
        return source.decode(encoding)
    except SyntaxError as error:
        raise _not_python(error.msg, error.lineno or 1) from None
    except UnicodeDecodeError as error:
        raise _not_python(str(error), source.count(b"\n", 0, error.start) + 1) from None
    except (ValueError, LookupError) as error:  # no encoding of text, or a name that cannot be looked up
        raise _not_python(str(error), 1) from None


def _not_python(why: str, line: int | None = None) -> InvalidRequest:
    where = "" if line is None else f", line {line}"
    return InvalidRequest(f"The script file is not Python: {_text(why)[:MESSAGE_CHARACTERS_MAX]}{where}")


def _function(module: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Return the last top-level definition of *name*: the one that Python would call."""
    for statement in reversed(module.body):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name == name:
            return statement
    return None


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and _last_name(decorator.func) == DECORATOR:
            for keyword in decorator.keywords:
                if keyword.arg is not None:
                    try:
                        found[keyword.arg] = ast.literal_eval(keyword.value)
                    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                        continue  # it is known only when the script runs
    if found.get("wait") is True and found.get("queue") is None:
        found["queue"] = WAITING_QUEUE
    return found


def _last_name(expression: ast.expr) -> str:
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _text(text: str) -> str:
    """Return the text with nothing in it that UTF-8 cannot hold: it goes into messages."""
    return text.encode("utf-8", "replace").decode()
