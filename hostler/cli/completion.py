"""What can be typed next: the words that a shell offers when somebody presses Tab.

`offers` is given the words that were typed after the program's name, the last of them unfinished, and says what could
stand there. What the cluster would have to say is left to `hostler.cli.known_words`, which is imported only then.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hostler.cli.options import Place

FILES = ":files"  # the shell is to offer files
PROGRAMS = ":programs"  # ... programs
HELP_CHARACTERS_MAX = 100

# What stands for an argument or the value of an option, by the name of its parameter. Of a command that has another
# meaning for it: by the names of both.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "job": "jobs",
        "jobs": "jobs",
        "attach job": "open jobs",
        "signal job": "open jobs",
        "stop jobs": "open jobs",
        "wait jobs": "open jobs",
        "retry jobs": "finished jobs",
        "signal name": "signals",
        "worker": "workers",
        "workload": "workloads",
        "stage": "workloads",
        "logs stage": "nothing",
        "result stage": "nothing",
        "workloads show name": "workloads",
        "workloads remove name": "workloads",
        "keys revoke key": "keys",
        "state": "states",
        "start_path": "start paths",
        "loss_policy": "loss policies",
        "on_lost": "on lost",
        "retry_on": "causes",
        "role": "roles",
        "shell": "shells",
        "sort": "sortings",
    }
)
WANT_FILES = frozenset(
    {"config", "data_dir", "policy_file", "file", "params", "cwd", "into", "archive", "paths", "path"}
)
PLACES = frozenset({"config", "data_dir", "coordinator"})


class Offer(NamedTuple):
    """Something that can be typed, and a few words about it."""

    text: str
    about: str = ""


class _Typed(NamedTuple):
    """Where the words that are finished have led."""

    command: Any
    path: tuple[str, ...]
    place: Mapping[str, str]
    option: Any  # whose value comes next; None: none's
    arguments: int  # that were given to this command
    ended: bool  # options are over


def offers(root: Any, words: Sequence[str]) -> list[Offer]:
    """Say what can be typed in place of the last of *words*; one that is `FILES` or `PROGRAMS` leaves it to the shell.

    Args:
        root: the command of the whole program.
        words: as the shell has them, quotes included; bash has an equals sign as a word of its own.
    """
    *before, last = list(words) or [""]
    if last == "=":  # bash: the value of an option begins
        before, last = [*before, last], ""
    last = _plain(last)
    if len(before) > 1 and before[-1] == "=":
        before.pop()
    typed = _follow(root, [_plain(word) for word in before if word != "="])
    if typed.option is not None:
        return _values(typed, typed.option, last)
    if last.startswith("-") and not typed.ended:
        name, equals, value = last.partition("=")
        option = _option(typed.command, name) if equals else None
        if option is not None:
            return [Offer(f"{name}={one.text}", one.about) for one in _values(typed, option, value)]
        return _beginning(last, _options(typed.command))
    if _commands(typed.command):
        return _beginning(last, ((name, one.get_short_help_str(100)) for name, one in _commands(typed.command).items()))
    return _argument(typed, last)


def command_of(root: Any, words: Sequence[str]) -> tuple[str, ...]:
    """The names of the command that these words are about: ``("workers", "drain")``; empty: the program."""
    return _follow(root, words).path


def _argument(typed: _Typed, last: str) -> list[Offer]:
    left = typed.arguments
    for parameter in typed.command.params:
        if parameter.param_type_name != "argument":
            continue
        if left == 0 or parameter.nargs == -1:
            if parameter.name == "argv":
                return [Offer(FILES if left else PROGRAMS)]
            return _values(typed, parameter, last)
        left -= 1
    return []


def _follow(root: Any, words: Sequence[str]) -> _Typed:
    typed = _Typed(root, (), {}, None, 0, False)
    for word in words:
        typed = _step(typed, word)
    return typed


def _step(typed: _Typed, word: str) -> _Typed:
    command = typed.command
    if typed.option is not None:
        return typed._replace(option=None, place=_with_place(typed, typed.option, word))
    if not typed.ended and word == "--":
        return typed._replace(ended=True)
    if not typed.ended and word.startswith("-") and word != "-":
        name, equals, value = word.partition("=")
        option = _option(command, name)
        if option is None or option.is_flag:
            return typed
        return typed._replace(place=_with_place(typed, option, value)) if equals else typed._replace(option=option)
    inner = _commands(command).get(word)
    if inner is not None:
        return typed._replace(command=inner, path=(*typed.path, word))
    # What follows the name of a job's program is that program's.
    interspersed = command.context_settings.get("allow_interspersed_args", True)
    return typed._replace(arguments=typed.arguments + 1, ended=typed.ended or not interspersed)


def _with_place(typed: _Typed, option: Any, value: str) -> Mapping[str, str]:
    return {**typed.place, option.name: value} if option.name in PLACES else typed.place


def _values(typed: _Typed, parameter: Any, last: str) -> list[Offer]:
    if parameter.name in WANT_FILES:
        return [Offer(FILES)]
    kind = KINDS.get(" ".join((*typed.path, parameter.name))) or KINDS.get(parameter.name, "")
    if kind in ("", "nothing"):
        return []
    from hostler.cli.known_words import fixed_words, words_of_cluster

    known = fixed_words(kind)
    if known is not None:
        return _beginning(last, ((word, "") for word in known))
    data_dir, config = typed.place.get("data_dir"), typed.place.get("config")
    place = Place(
        data_dir=Path(data_dir) if data_dir else None,
        coordinator=typed.place.get("coordinator"),
        config=Path(config) if config else None,
    )
    return _beginning(last, words_of_cluster(place, kind, last))


def _beginning(last: str, words: Iterable[tuple[str, str]]) -> list[Offer]:
    found = {word: about for word, about in words if word.startswith(last)}
    return [Offer(word, about[:HELP_CHARACTERS_MAX]) for word, about in found.items()]


def _commands(command: Any) -> Mapping[str, Any]:
    known = getattr(command, "commands", {})
    return {name: one for name, one in known.items() if not one.hidden}


def _options(command: Any) -> Iterable[tuple[str, str]]:
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            yield max(parameter.opts, key=len), parameter.help or ""
    yield "--help", "Show what there is to say."


def _option(command: Any, name: str) -> Any:
    for parameter in command.params:
        if parameter.param_type_name == "option" and name in parameter.opts:
            return parameter
    return None


def _plain(word: str) -> str:
    """A word without its quotes; one that is unfinished as far as it goes."""
    for ending in ("", "'", '"'):
        try:
            parts = shlex.split(word + ending)
        except ValueError:
            continue
        word = parts[0] if len(parts) == 1 else word
        break
    return str(Path(word).expanduser()) if word.startswith("~/") else word
