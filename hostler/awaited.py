"""What must happen before a job that waits can start, in sentences.

Pure. A worker is counted by the first condition that it fails, and what lasts is looked at first. So a worker that is
counted by what passes may run the job, and where there is none, somebody must do something.
"""

from collections.abc import Mapping
from typing import Final

from hostler.pending import Code, Pending

# Of what a worker is: what another one must be.
NEEDED: Final[Mapping[str, str]] = {
    Code.REFUSED: "does not refuse it",
    Code.LABEL: "has its labels",
    Code.WHERE: "matches its expression",
    Code.RUNTIME: "runs programs of its kind",
    Code.LIMIT: "can enforce its limits",
    Code.HARDENED: "has the hardened start path",
    Code.POLICY: "takes more than named workloads",
    Code.WORKLOAD: "takes its workload",
    Code.FEW_SLOTS: "has as many slots as it takes",
}
# Of workers that may run it when somebody has done something: what, and how any of them is named.
WITHDRAWN: Final[Mapping[str, str]] = {
    Code.DRAINED: "is given work again (hostler workers resume {name})",
    Code.QUARANTINED: "is released from its quarantine (hostler workers release {name})",
    Code.LEFT: "is started again",
}
ABSENT: Final[Mapping[str, str]] = {
    Code.DRAINED: "a drained one",
    Code.QUARANTINED: "one under quarantine",
    Code.LEFT: "one that has left",
}


def awaited(pending: Pending, *, pinned: bool) -> str:
    """What a job waits for; *pinned*: it asks for one worker."""
    codes = list(dict.fromkeys(str(why.code) for why in pending.reasons if why.workers))
    if any(why.code == Code.NO_WORKER for why in pending.reasons):
        return "It starts when a worker that may run it has joined."
    if codes == [Code.UNREACHABLE]:
        return "It starts when a worker that may run it is back and has room."
    if not codes or any(code not in NEEDED and code not in WITHDRAWN and code != Code.OTHER_WORKER for code in codes):
        return "It starts when a worker that may run it has room."
    ways = [_comes_back(code, pending) for code in codes if code in WITHDRAWN]
    needed = " and ".join(NEEDED[code] for code in codes if code in NEEDED)
    if Code.OTHER_WORKER in codes:
        ways = ["the worker that it asks for joins again"]
    elif needed:
        ways.append(f"{'the worker that it asks for joins again and' if pinned else 'one joins that'} {needed}")
    whom = "Its worker does not take it as it is" if pinned else "No worker takes it as things are"
    return f"{whom}: it starts when {', or when '.join(ways)}."


def _comes_back(code: str, pending: Pending) -> str:
    what, near = WITHDRAWN[code], pending.nearest
    if near is not None and near.codes[:1] == (code,):
        return f"{near.name} {what.format(name=near.name)}"
    return f"{ABSENT[code]} {what.format(name='NAME')}"
