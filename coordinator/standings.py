"""How workers stand to a class of jobs, counted: the reasons why none takes its next job, and who comes nearest.

Pure. To look at thousands of workers takes milliseconds, so what was found for a class is kept a while, and before each
use those workers are looked at again that have changed since. What is told is as if all had been looked at now.
"""

from collections import Counter
from typing import NamedTuple

from coordinator.capacity import ClassKey, Worker
from coordinator.live import Live
from coordinator.placement import SENT_AHEAD, Obstacle, obstacles, wants_more
from hostler.pending import Code, Reason

# What passes by itself, or with an end, while a worker stays what it is. No set, as enums are slow to hash.
PASSING = (Code.NO_FREE_SLOT, Code.UNREACHABLE, Code.DRAINING, Code.SENT_AHEAD, Code.PROCESSES, Code.DISK_FULL)
# What lasts until somebody does something, while the worker is one that may run the job.
WITHDRAWN = (Code.DRAINED, Code.LEFT, Code.QUARANTINED)
KEPT_MAX = 50_000  # standings, of some 200 bytes each
REASONS_MAX = 10_000  # classes whose reasons are kept as long as no worker changes

VERBS_OF_MANY = {
    "is": "are",
    "has": "have",
    "does": "do",
    "takes": "take",
    "runs": "run",
    "was": "were",
}  # the first words of obstacles

NO_WORKER = Reason(code=Code.NO_WORKER, text="no worker has ever joined; start one with: hostler worker")


class Standing(NamedTuple):
    """How one worker stands to a class; the least is nearest to taking a job."""

    unfit: int  # conditions that it fails by what it is
    lasting: int  # those that it fails until somebody does something
    failed: int  # all that it fails
    lacking_slots: int  # negative: it has more than are needed
    worker: str
    text: str  # of the first that it fails; empty: it takes the next job


def hindrances(worker: Worker, wanted: ClassKey) -> list[Obstacle]:
    """Everything why *worker* is not given a job of this class now."""
    found = list(obstacles(worker, wanted))
    return [SENT_AHEAD] if not found and not wants_more(worker, wanted) else found


def _reason(why: Obstacle, number: int) -> Reason:
    text = f"1 worker {why.text}" if number == 1 else f"{number} workers {_of_many(why)}"
    return Reason(code=why.code, text=text, workers=number)


def _of_many(why: Obstacle) -> str:
    """What is said of one worker, said of several."""
    verb, _, rest = why.text.partition(" ")
    if why.code is Code.SENT_AHEAD:
        rest = rest.replace("and gets", "and get")
    elif why.code in (Code.DISK_FULL, Code.PROCESSES):
        rest = rest.replace("its disk", "their disks").replace("its limit", "their limit")
    return f"{VERBS_OF_MANY.get(verb, verb)} {rest}"


class ClassStandings:
    """How each worker stands to one class."""

    def __init__(self, wanted: ClassKey) -> None:
        self._wanted = wanted
        self._changes = 0  # of workers, up to which this is true
        self._standings: dict[Worker, Standing] = {}
        self._workers: Counter[str] = Counter()  # by text
        self._firsts: dict[str, Obstacle] = {}  # by text
        self._nearest: Standing | None = None  # None: not known

    def bring_up(self, live: Live) -> None:
        """Look at those that changed."""
        if self._changes != live.worker_changes.count:
            for worker in live.worker_changes.since(self._changes):
                self._look_at(worker)
            self._changes = live.worker_changes.count

    def _look_at(self, worker: Worker) -> None:
        found = hindrances(worker, self._wanted)
        text = self._firsts.setdefault(found[0].text, found[0]).text if found else ""
        lasting = [why.code for why in found if why.code not in PASSING]
        unfit = sum([code not in WITHDRAWN for code in lasting])
        lacking = worker.slots_used + self._wanted.slots - worker.slots
        standing = Standing(unfit, len(lasting), len(found), lacking, worker.id, text)
        before = self._standings.get(worker)
        if before is not None:
            self._workers[before.text] -= 1
            if before is self._nearest:
                self._nearest = standing if standing <= before else None
        self._workers[text] += 1
        self._standings[worker] = standing
        if self._nearest is not None and standing < self._nearest:
            self._nearest = standing

    def reasons(self) -> tuple[Reason, ...]:
        """Why no worker takes the next job, the most frequent first; empty: one takes it."""
        if self._workers[""]:
            return ()
        return tuple(
            _reason(self._firsts[text], number)
            for text, number in sorted(self._workers.items(), key=lambda item: (-item[1], item[0]))
            if number
        )

    def nearest(self) -> str:
        """The worker that fails the fewest conditions by what it is, then of those that last, then at all.

        Then the one that lacks the fewest slots. There must be one.
        """
        if self._nearest is None:
            self._nearest = min(self._standings.values())
        return self._nearest.worker


class KeptStandings:
    """The standings of the classes that were asked for lately: as many as memory allows."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._changes = 0  # of its workers, when the reasons were found
        self._reasons: dict[ClassKey, tuple[Reason, ...]] = {}
        self._classes: dict[ClassKey, ClassStandings] = {}  # the one asked for last comes last

    def reasons(self, live: Live, wanted: ClassKey) -> tuple[Reason, ...]:
        """Why no worker takes the next job of this class, the most frequent first; empty: one takes it."""
        self._bring_up(live)
        found = self._reasons.get(wanted)
        if found is None:
            found = self._reasons[wanted] = self._found(live, wanted)
        return found

    def nearest(self, live: Live, wanted: ClassKey) -> Worker | None:
        """The worker that comes nearest to taking a job of this class; None: there is no worker."""
        self._bring_up(live)
        if not live.workers:
            return None
        return live.workers[wanted.pin if wanted.pin in live.workers else self._of_class(live, wanted).nearest()]

    def _bring_up(self, live: Live) -> None:
        if live is not self._live:
            self._live, self._reasons, self._classes = live, {}, {}
        if self._changes != live.worker_changes.count or len(self._reasons) >= REASONS_MAX:
            self._changes, self._reasons = live.worker_changes.count, {}

    def _found(self, live: Live, wanted: ClassKey) -> tuple[Reason, ...]:
        if not live.workers:
            return (NO_WORKER,)
        if wanted.pin not in live.workers:
            return self._of_class(live, wanted).reasons()
        why = next(iter(hindrances(live.workers[wanted.pin], wanted)), None)
        return () if why is None else (Reason(code=why.code, text=f"the worker asked for {why.text}", workers=1),)

    def _of_class(self, live: Live, wanted: ClassKey) -> ClassStandings:
        found = self._classes.pop(wanted, None) or ClassStandings(wanted)
        self._classes[wanted] = found
        while len(self._classes) > max(1, KEPT_MAX // len(live.workers)):
            del self._classes[next(iter(self._classes))]
        found.bring_up(live)
        return found
