"""The language in which jobs and workers are chosen: ``zone in (a, b) and gpu != no and not spare``.

Pure. A text is parsed once into a frozen `Selector`, which is then held against names with their values. The
language is explained in ``docs/selectors.md``; what the names are is said where it is used (`hostler.job_filters`,
`coordinator.placement`). A name that is not there equals nothing, so ``!=`` and ``not in`` hold for it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hostler.errors import InvalidRequest, TooLarge

SELECTOR_CHARACTERS_MAX = 4000
DEPTH_MAX = 30  # of parentheses and nots inside one another
TERMS_MAX = 500  # comparisons, and values of their lists
SHOWN_CHARACTERS_MAX = 40  # of the text in an error
WORDS = frozenset({"and", "or", "not", "in"})

# A name, or a value, as it can be written without quotation marks.
BARE = r"[^\s()=!,\"']+"
_TOKEN = re.compile(
    rf"\s*(?:(?P<mark>==|!=|=|\(|\)|,)|(?P<bare>{BARE})|\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>(?:[^'\\]|\\.)*)')",
    re.DOTALL,
)
_IS_BARE = re.compile(BARE)

Facts = Mapping[str, str | tuple[str, ...]]  # names with their values; of several values any may be meant


class Value(NamedTuple):
    """What something is compared with; with *wild* each ``*`` in it stands for any characters, or none."""

    text: str
    wild: bool = False

    def fits(self, found: str) -> bool:
        """Whether *found* is this value."""
        if not self.wild:
            return found == self.text
        first, *others = self.text.split("*")
        *middle, last = others
        if not (found.startswith(first) and found.endswith(last) and len(found) >= len(first) + len(last)):
            return False
        # From the left each as early as possible: if that does not fit, nothing does.
        place, end = len(first), len(found) - len(last)
        for part in middle:
            place = found.find(part, place, end)
            if place < 0:
                return False
            place += len(part)
        return True

    def __str__(self) -> str:
        return self.text if self.wild else quoted(self.text)


@dataclass(frozen=True, slots=True)
class Exists:
    """The name is there, whatever its value."""

    name: str

    def matches(self, facts: Facts) -> bool:
        """See `Selector`."""
        return self.name in facts

    def __str__(self) -> str:
        return quoted(self.name)


@dataclass(frozen=True, slots=True)
class OneOf:
    """The name is there and has one of these values."""

    name: str
    values: tuple[Value, ...]

    def matches(self, facts: Facts) -> bool:
        """See `Selector`."""
        found = facts.get(self.name)
        if found is None:
            return False
        if isinstance(found, str):
            return any(value.fits(found) for value in self.values)
        return any(value.fits(each) for each in found for value in self.values)

    def __str__(self) -> str:
        return self.text("=", "in")

    def text(self, single: str, several: str) -> str:
        """The comparison with these operators."""
        if len(self.values) == 1:
            return f"{quoted(self.name)} {single} {self.values[0]}"
        return f"{quoted(self.name)} {several} ({', '.join(map(str, self.values))})"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    term: "Selector"

    def matches(self, facts: Facts) -> bool:
        """See `Selector`."""
        return not self.term.matches(facts)

    def __str__(self) -> str:
        if isinstance(self.term, OneOf):
            return self.term.text("!=", "not in")
        return f"not ({self.term})" if isinstance(self.term, All | Any) else f"not {self.term}"


@dataclass(frozen=True, slots=True)
class All:
    """Each of them holds; there are two or more."""

    terms: tuple["Selector", ...]

    def matches(self, facts: Facts) -> bool:
        """See `Selector`."""
        return all(term.matches(facts) for term in self.terms)

    def __str__(self) -> str:
        return " and ".join(f"({term})" if isinstance(term, All | Any) else str(term) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Any:
    """One of them holds; there are two or more."""

    terms: tuple["Selector", ...]

    def matches(self, facts: Facts) -> bool:
        """See `Selector`."""
        return any(term.matches(facts) for term in self.terms)

    def __str__(self) -> str:
        return " or ".join(f"({term})" if isinstance(term, Any) else str(term) for term in self.terms)


# What a text means. Its text, by `str`, means the same; `matches` holds it against names with their values.
Selector = Exists | OneOf | Not | All | Any


def parse_selector(text: str, *, field: str = "filter") -> Selector:
    """Read a text.

    Raises:
        InvalidRequest: it is none; the message names the place, counted from 1, and what was expected there.
        TooLarge: it is too long, too deep or has too many terms.
    """
    if len(text) > SELECTOR_CHARACTERS_MAX:
        raise TooLarge(f"{field} has {len(text)} characters; at most {SELECTOR_CHARACTERS_MAX}", field=field)
    return _Reader(text, field).whole()


def comparisons(selector: Selector) -> Iterator[OneOf]:
    """Every comparison in it, also those of which the opposite is meant."""
    if isinstance(selector, OneOf):
        yield selector
    elif isinstance(selector, Not):
        yield from comparisons(selector.term)
    elif isinstance(selector, All | Any):
        for term in selector.terms:
            yield from comparisons(term)


def names(selector: Selector) -> Iterator[str]:
    """Every name in it, as often as it is there."""
    if isinstance(selector, Exists | OneOf):
        yield selector.name
    elif isinstance(selector, Not):
        yield from names(selector.term)
    else:
        for term in selector.terms:
            yield from names(term)


def quoted(text: str) -> str:
    """A name or a value as it is to be written so that it means just that."""
    if _IS_BARE.fullmatch(text) and text not in WORDS and "*" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Token(NamedTuple):
    kind: str  # mark, word, bare, quoted, end
    text: str
    place: int

    def shown(self) -> str:
        if self.kind == "end":
            return "the end"
        text = self.text if len(self.text) <= SHOWN_CHARACTERS_MAX else f"{self.text[:SHOWN_CHARACTERS_MAX]}..."
        return repr(text)


class _Reader:
    """Reads one text from the left to the right."""

    def __init__(self, text: str, field: str) -> None:
        self._text = text
        self._field = field
        self._place = 0
        self._terms = 0
        self._next = self._token()

    def whole(self) -> Selector:
        found = self._any(0)
        if self._next.kind != "end":
            raise self._expected("and, or, or the end")
        return found

    def _any(self, depth: int) -> Selector:
        terms = [self._all(depth)]
        while self._take("word", "or"):
            terms.append(self._all(depth))
        return terms[0] if len(terms) == 1 else Any(tuple(terms))

    def _all(self, depth: int) -> Selector:
        terms = [self._term(depth)]
        while self._take("word", "and") or self._take("mark", ","):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else All(tuple(terms))

    def _term(self, depth: int) -> Selector:
        if depth > DEPTH_MAX:
            raise TooLarge(f"{self._field} has more than {DEPTH_MAX} levels", field=self._field)
        if self._take("word", "not"):
            return Not(self._term(depth + 1))
        if self._take("mark", "("):
            found = self._any(depth + 1)
            if not self._take("mark", ")"):
                raise self._expected("and, or, or )")
            return found
        if self._next.kind not in ("bare", "quoted"):
            raise self._expected("a name, not, or (")
        name = self._advance()
        if "*" in name.text and name.kind == "bare":
            raise self._wrong("a name has no * in it; only values have", name.place)
        self._count()
        return self._comparison(name.text)

    def _comparison(self, name: str) -> Selector:
        if self._take("mark", "=") or self._take("mark", "=="):
            return OneOf(name, (self._value(),))
        if self._take("mark", "!="):
            return Not(OneOf(name, (self._value(),)))
        if self._take("word", "in"):
            return OneOf(name, self._values())
        if self._take("word", "not"):
            if not self._take("word", "in"):
                raise self._expected("in")
            return Not(OneOf(name, self._values()))
        if self._next.kind in ("bare", "quoted") or (self._next.kind, self._next.text) == ("mark", "("):
            raise self._expected("=, !=, in, not in, and, or, or the end")
        return Exists(name)

    def _values(self) -> tuple[Value, ...]:
        if not self._take("mark", "("):
            raise self._expected("( and the values")
        values = [self._value()]
        while not self._take("mark", ")"):
            if not self._take("mark", ","):
                raise self._expected(", or )")
            values.append(self._value())
        return tuple(values)

    def _value(self) -> Value:
        if self._next.kind not in ("bare", "quoted"):
            hint = "; such a word stands in quotation marks" if self._next.kind == "word" else ""
            raise self._expected("a value", "; several go with in" if self._next.text == "(" else hint)
        self._count()
        token = self._advance()
        return Value(token.text, token.kind == "bare" and "*" in token.text)

    def _count(self) -> None:
        self._terms += 1
        if self._terms > TERMS_MAX:
            raise TooLarge(f"{self._field} has more than {TERMS_MAX} names and values", field=self._field)

    def _take(self, kind: str, text: str) -> bool:
        if (self._next.kind, self._next.text) != (kind, text):
            return False
        self._advance()
        return True

    def _advance(self) -> _Token:
        token, self._next = self._next, self._token()
        return token

    def _token(self) -> _Token:
        found = _TOKEN.match(self._text, self._place)
        if found is None:
            rest = self._text[self._place :].lstrip()
            place = len(self._text) - len(rest)
            if not rest:
                return _Token("end", "", place)
            if rest[0] in "\"'":
                raise self._wrong(f"the quotation mark {rest[0]} is not closed", place)
            raise self._wrong(f"{rest[0]} means nothing alone; != is the opposite of =", place)
        self._place = found.end()
        kind = found.lastgroup or ""
        text, start = found.group(kind), found.start(kind)
        if kind in ("double", "single"):
            return _Token("quoted", re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL), start - 1)
        return _Token("word" if kind == "bare" and text in WORDS else kind, text, start)

    def _expected(self, what: str, hint: str = "") -> InvalidRequest:
        return self._wrong(f"{what} was expected, not {self._next.shown()}{hint}", self._next.place)

    def _wrong(self, what: str, place: int) -> InvalidRequest:
        return InvalidRequest(f"{self._field}, character {place + 1}: {what}", field=self._field)
