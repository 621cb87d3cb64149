"""Every guard of the protocol is noticed when it is missing, or it is written down why nobody can notice."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.guards import CAUGHT_BY, CAUGHT_RARELY_BY, GUARDS, PLANTED, UNNOTICED
from tests.simulation.lives import PROCESSES, begin, objects
from tests.simulation.mutants import MUTANTS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"


def test_every_guard_has_a_mutant() -> None:
    """And every mutant belongs to a guard."""
    assert set(MUTANTS) == set(GUARDS)


@pytest.mark.parametrize("guard", sorted(GUARDS))
def test_a_guard_is_where_the_list_says(guard: str) -> None:
    """A guard that was moved or removed is noticed here."""
    module, _, path = GUARDS[guard].partition(":")
    place: Any = importlib.import_module(module)
    for name in path.split("."):
        place = getattr(place, name)

    assert callable(place)


def test_the_planted_faults_of_the_study_are_all_here() -> None:
    """Fourteen, each a guard of its own; the document says which."""
    text = DOCUMENT.read_text()

    assert len(set(PLANTED.values())) == len(PLANTED) == 14
    assert set(PLANTED.values()) <= set(GUARDS)
    assert [fault for fault, guard in PLANTED.items() if f"{fault}: `{guard}`" not in text] == []


def test_every_guard_is_noticed_or_explained() -> None:
    """Also in the document for people."""
    text = DOCUMENT.read_text()

    assert sorted([*CAUGHT_BY, *CAUGHT_RARELY_BY, *UNNOTICED]) == sorted(GUARDS)
    assert [guard for guard in GUARDS if f"`{guard}`" not in text] == []


@pytest.mark.timeout(900)
def test_every_guard_that_is_missing_is_noticed() -> None:
    """By the seed that did it before, or by another of a bounded number."""
    assert _unnoticed(CAUGHT_BY, within=200) == []


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_every_guard_that_is_missing_is_noticed_also_the_rare_ones() -> None:
    """Those that one schedule in fifty or a hundred needs; a change of the code gives the seeds other lives."""
    assert _unnoticed(CAUGHT_RARELY_BY, within=500) == []


def _unnoticed(caught_by: dict[str, int], *, within: int) -> list[str]:
    cases = [f"{guard}:{seed}" for guard, seed in caught_by.items()]
    parts = [",".join(cases[place::PROCESSES]) for place in range(PROCESSES)]
    found = list(objects(*(begin("--within", str(within), "--catch", part) for part in parts)))
    assert {each["mutant"] for each in found} == set(caught_by)
    return [each["mutant"] for each in found if not each["violation"]]
