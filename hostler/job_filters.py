"""Which jobs a filter finds: a selector over a job's tags and over what is known of every job.

Pure. ``docs/selectors.md`` has the words.
"""

from collections.abc import Mapping

from hostler.errors import InvalidRequest
from hostler.lifecycle import Outcome, State
from hostler.selectors import Facts, Selector, comparisons, parse_selector

# What a filter knows of each job besides its tags; no tag can be called so.
FILTER_WORDS = ("state", "outcome", "name", "workload", "worker", "family", "owner", "id", "cause")
_STATES = {int(state): state.word for state in State}
_OUTCOMES = {int(outcome): outcome.word for outcome in Outcome if outcome is not Outcome.NONE}
_WORDS_OF = {"state": frozenset(_STATES.values()), "outcome": frozenset(_OUTCOMES.values())}


def parse_filter(text: str, *, field: str = "filter") -> Selector:
    """Read a filter.

    Raises:
        InvalidRequest: it is none, or asks for a state or an outcome that does not exist.
        TooLarge: it is too long.
    """
    selector = parse_selector(text, field=field)
    for comparison in comparisons(selector):
        known = _WORDS_OF.get(comparison.name)
        for value in comparison.values if known is not None else ():
            if known is not None and not value.wild and value.text not in known:
                words = ", ".join(sorted(known))
                raise InvalidRequest(
                    f"{field}: there is no {comparison.name} {value.text[:50]!r}; there are {words}", field=field
                )
    return selector


def facts_of(
    *,
    job_id: str,
    state: int,
    outcome: int,
    name: str,
    workload: str,
    worker: str,
    worker_name: str,
    family: str,
    owner: str,
    cause: str,
    tags: Mapping[str, str],
) -> Facts:
    """What a filter is held against; what a job does not have is not there."""
    # Thousands are held against one filter: this is most of what that costs.
    facts: dict[str, str | tuple[str, ...]] = {**tags, "state": _STATES[state], "owner": owner, "id": job_id}
    if outcome:
        facts["outcome"] = _OUTCOMES[outcome]
    if name:
        facts["name"] = name
    if workload:
        facts["workload"] = workload
    if family:
        facts["family"] = family
    if cause:
        facts["cause"] = cause
    if worker:
        facts["worker"] = (worker, worker_name) if worker_name else worker
    return facts
