"""What must happen before a job that waits can start, in sentences.

Pure. A worker is counted by the first condition that it fails, and what lasts is looked at first. So a worker that is
counted by what passes may run the job, and where there is none, somebody must do something.
"""

from collections import Counter
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
    Code.QUARANTINED: "is released from its quarantine (hostler workers release {name})",
    Code.LEFT: "is started again",
    Code.DRAINED: "is given work again (hostler workers resume {name})",
    Code.UNREACHABLE: "can be reached again",
}
ABSENT: Final[Mapping[str, tuple[str, str]]] = {  # the only one of them, and several
    Code.QUARANTINED: ("one under quarantine", "workers under quarantine"),
    Code.LEFT: ("one that has left", "workers that have left"),
    Code.DRAINED: ("a drained one", "drained workers"),
    Code.UNREACHABLE: ("an unreachable one", "unreachable workers"),
}
# Of workers that may run it, and take it by themselves when this has passed.
PASSING: Final[Mapping[str, str]] = {
    Code.DISK_FULL: "has more room on its disk",
    Code.DRAINING: "takes new work again",
    Code.NO_FREE_SLOT: "has room",
    Code.PROCESSES: "has room",
    Code.SENT_AHEAD: "has room",
}
ROOM: Final = "has room"  # also of what a newer coordinator says, and is not known here


def awaited(pending: Pending, *, pinned: bool) -> str:
    """What a job waits for; *pinned*: it asks for one worker."""
    codes = {why.code for why in pending.reasons}
    if Code.NO_WORKER in codes:
        return "It starts when a worker that may run it has joined."
    if pinned and Code.REVOKED in codes:
        return "It never starts, as the worker that it asks for was revoked: stop it, and submit it for another one."
    if Code.AHEAD in codes:
        return "It starts there when enough slots are free, or elsewhere when another worker has room first."
    if Code.TURN in codes:
        return "It is given to a worker in a moment."
    counts = Counter[str]()  # several reasons may have one code, as each label has its own
    for why in pending.reasons:
        counts[str(why.code)] += why.workers
    counts = +counts
    passing = [PASSING.get(code, ROOM) for code in counts if not _lasts(code)]
    if passing or not counts:
        return f"It starts when a worker that may run it {' or '.join(dict.fromkeys(passing or [ROOM]))}."
    ways = [_comes_back(code, workers, pending) for code, workers in counts.items() if code in WITHDRAWN]
    needed = " and ".join(NEEDED[code] for code in counts if code in NEEDED)
    if Code.OTHER_WORKER in counts:
        ways = ["the worker that it asks for joins again"]
    elif pinned and needed:
        ways.append(f"the worker that it asks for joins again and {needed}")
    elif not pinned:
        ways.append(f"one joins that {needed}" if needed else "another one joins that may run it")
    whom = "Its worker does not take it as it is" if pinned else "No worker takes it as things are"
    return f"{whom}: it starts when {', or when '.join(ways)}."


def _lasts(code: str) -> bool:
    return code in NEEDED or code in WITHDRAWN or code in (Code.OTHER_WORKER, Code.REVOKED)


def _comes_back(code: str, workers: int, pending: Pending) -> str:
    near = pending.nearest
    name = near.name if near is not None and near.codes[:1] == (code,) else ""
    if workers > 1:
        example = f", for example {name}," if name else ""
        return f"any of the {workers:,} {ABSENT[code][1]}{example} {WITHDRAWN[code].format(name=name or 'NAME')}"
    if near is None or not name:
        return f"{ABSENT[code][0]} {WITHDRAWN[code].format(name='NAME')}"
    return f"{name} {' and '.join(WITHDRAWN[each].format(name=name) for each in near.codes if each in WITHDRAWN)}"
