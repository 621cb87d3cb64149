"""What a mutant is: a guard of the protocol, switched off.

A mutant replaces a piece of the product's code for as long as a simulation runs; the product has no switches. A guard
whose mutant nobody notices is redundant, or the simulation does not look closely enough; `docs/simulation.md` says
which it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

Replacement = tuple[Any, str, Any]


class Mutant(NamedTuple):
    """A guard that is off."""

    guard: str
    rule: str  # what holds while it is on
    replaced: Callable[[], list[Replacement]]

    @contextmanager
    def switch_off(self) -> Iterator[None]:
        """Live without the guard."""
        with ExitStack() as stack:
            for where, name, value in self.replaced():
                stack.enter_context(patch.object(where, name, value))
            yield


MUTANTS: dict[str, Mutant] = {}


def off(rule: str) -> Callable[[Callable[[], list[Replacement]]], Callable[[], list[Replacement]]]:
    """Register a mutant under the name of its function; *rule* is what the guard is for."""

    def register(replaced: Callable[[], list[Replacement]]) -> Callable[[], list[Replacement]]:
        MUTANTS[replaced.__name__] = Mutant(replaced.__name__, rule, replaced)
        return replaced

    return register
