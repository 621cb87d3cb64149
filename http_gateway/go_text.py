"""What Go's standard library would say: its JSON errors, and how it prints the end of a process.

Pure. The start/stop/query document comes from a Go program, and its clients compare texts.
Sources: encoding/json (scanner.go, decode.go), os (ProcessState.String), syscall (signal table).
"""

import json
import re
import signal
from collections.abc import Mapping
from types import MappingProxyType

END_OF_INPUT = "unexpected end of JSON input"

SIGNALS: Mapping[str, str] = MappingProxyType(
    {
        "SIGHUP": "hangup",
        "SIGINT": "interrupt",
        "SIGQUIT": "quit",
        "SIGILL": "illegal instruction",
        "SIGTRAP": "trace/breakpoint trap",
        "SIGABRT": "aborted",
        "SIGBUS": "bus error",
        "SIGFPE": "floating point exception",
        "SIGKILL": "killed",
        "SIGUSR1": "user defined signal 1",
        "SIGSEGV": "segmentation fault",
        "SIGUSR2": "user defined signal 2",
        "SIGPIPE": "broken pipe",
        "SIGALRM": "alarm clock",
        "SIGTERM": "terminated",
        "SIGSTKFLT": "stack fault",
        "SIGCHLD": "child exited",
        "SIGCONT": "continued",
        "SIGSTOP": "stopped (signal)",
        "SIGTSTP": "stopped",
        "SIGTTIN": "stopped (tty input)",
        "SIGTTOU": "stopped (tty output)",
        "SIGURG": "urgent I/O condition",
        "SIGXCPU": "CPU time limit exceeded",
        "SIGXFSZ": "file size limit exceeded",
        "SIGVTALRM": "virtual timer expired",
        "SIGPROF": "profiling timer expired",
        "SIGWINCH": "window changed",
        "SIGIO": "I/O possible",
        "SIGPWR": "power failure",
        "SIGSYS": "bad system call",
    }
)

_LITERALS = ("true", "false", "null")
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


def exit_text(code: int) -> str:
    """How Go prints the end of a process that exited with a code other than 0."""
    return f"exit status {code}"


def signal_text(name: str, *, core_dumped: bool = False) -> str:
    """How Go prints the end of a process that the signal *name* ("SIGKILL") ended."""
    words = SIGNALS.get(name) or f"signal {_number(name)}"
    return f"signal: {words}{' (core dumped)' if core_dumped else ''}"


def _number(name: str) -> str:
    """A signal without a name in Go is told by its number; ``SIGRTMIN+3`` is one too."""
    base, _, offset = name.partition("+")
    try:
        return str(int(signal.Signals[base]) + int(offset or 0))
    except (KeyError, ValueError):
        return name.removeprefix("SIG")


class WrongType(ValueError):
    """A JSON value cannot be what the Go struct wants; the text is Go's."""


def decode_texts(value: object, *, struct: str, names: tuple[str, ...]) -> dict[str, str]:
    """Read *value* into the text fields of a Go struct, as encoding/json does.

    Names match in any case and the last one wins, unknown names and nulls are passed over, and a
    field that is not there is an empty text.

    Raises:
        WrongType: *value* is no object, or a field is no text.
    """
    fields = dict.fromkeys(names, "")
    if value is None:
        return fields
    if not isinstance(value, dict):
        raise WrongType(f"json: cannot unmarshal {_kind(value)} into Go value of type main.{struct}")
    for key, content in value.items():
        name = key.casefold()
        if name not in fields or content is None:
            continue
        if not isinstance(content, str):
            raise WrongType(
                f"json: cannot unmarshal {_kind(content)} into Go struct field {struct}.{name} of type string"
            )
        fields[name] = content
    return fields


def _kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def syntax_text(error: json.JSONDecodeError) -> str:
    """Put a syntax error that Python found into Go's words."""
    text, at = error.doc, error.pos
    if error.msg.startswith("Unterminated string"):
        return END_OF_INPUT
    if error.msg.startswith("Invalid \\uXXXX"):
        at = text.rfind("\\u", 0, at + 3) + 2
        while at < len(text) and text[at] in "0123456789abcdefABCDEF":
            at += 1
        return _unexpected(text, at, "in \\u hexadecimal character escape")
    if error.msg.startswith("Invalid \\"):
        return _unexpected(text, at + 1, "in string escape code")
    match error.msg:
        case "Expecting property name enclosed in double quotes":
            return _unexpected(text, at, "looking for beginning of object key string")
        case "Expecting ':' delimiter":
            return _unexpected(text, at, "after object key")
        case "Expecting ',' delimiter":
            return _unexpected(text, at, "after " + _inside(text, at))
        case "Extra data":
            return _unexpected(text, at, "after top-level value")
        case "Invalid control character at":
            return _unexpected(text, at, "in string literal")
        case _:
            return _no_value(text, at)


def _no_value(text: str, at: int) -> str:
    first = text[at : at + 1]
    if first == "-":
        return _unexpected(text, at + 1, "in numeric literal")
    for literal in _LITERALS:
        if first == literal[0]:
            wrong = next((n for n, c in enumerate(literal) if text[at + n : at + n + 1] != c), 0)
            return _unexpected(text, at + wrong, f"in literal {literal} (expecting {_quoted(literal[wrong])})")
    return _unexpected(text, at, "looking for beginning of value")


def _unexpected(text: str, at: int, where: str) -> str:
    if at >= len(text):
        return END_OF_INPUT
    return f"invalid character {_quoted(text[at])} {where}"


def _inside(text: str, at: int) -> str:
    """What has just been read at a place where a comma is missing."""
    opened: list[str] = []
    for token in _TOKENS.finditer(text, 0, at):
        if token[0] in ("[", "{"):
            opened.append(token[0])
        elif token[0] in ("]", "}") and opened:
            opened.pop()
    return "array element" if opened and opened[-1] == "[" else "object key:value pair"


def _quoted(character: str) -> str:
    # Go's scanner goes by bytes: of a longer character it names the first one.
    byte = chr(character.encode("utf-8", "surrogatepass")[0])
    match byte:
        case "'":
            return "'\\''"
        case "\\":
            return "'\\\\'"
        case _ if byte.isprintable():
            return f"'{byte}'"
        case _:
            return {"\n": "'\\n'", "\r": "'\\r'", "\t": "'\\t'"}.get(byte, f"'\\x{ord(byte):02x}'")
