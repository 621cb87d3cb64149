"""What is looked at all through a fault run: outcomes stay (I3), epochs only grow (I11), memory is bounded (I17)."""

import asyncio
import contextlib
from dataclasses import dataclass, field

from hostler.errors import HostlerError
from hostler.jobs import JobQuery
from hostler.lifecycle import Outcome, State
from tests.faults.site import Site

EVERY_S = 0.3
TAKEN_EVERY = 5  # looks at the jobs, for each at the memory
MIB = 1 << 20
PSS_MAX_BYTES = {"coordinator": 100 * MIB, "gateway": 100 * MIB, "worker": 80 * MIB}
DESCRIPTORS_MAX = 200  # of a part at rest


@dataclass(slots=True)
class Watch:
    """Looks at a site as an operator does; `violations` gathers what cannot be."""

    site: Site
    violations: list[str] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # of ends, as first seen
    pss_max_bytes: dict[str, int] = field(default_factory=dict)  # by part
    _epoch: int = 0

    async def run(self) -> None:
        """Look again and again until cancelled."""
        looks = 0
        while True:
            with contextlib.suppress(HostlerError):
                await self.look()
            looks += 1
            if looks % TAKEN_EVERY == 0:
                self.weigh()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look at every job once."""
        epoch = (await self.site.client.describe()).epoch
        if epoch < self._epoch:
            self.violations.append(f"I11: the epoch was {self._epoch}, and is {epoch}")
        self._epoch = epoch
        async for page in self.site.client.find_brief(JobQuery()):
            for brief in page:
                now = brief.outcome if brief.state is State.FINISHED else Outcome.NONE
                before = self.outcomes.get(brief.id, now)
                if before is not now:
                    self.violations.append(f"I3: job {brief.id} was {before.word}, and is {now.word or 'open'}")
                if now:
                    self.outcomes[brief.id] = now

    def weigh(self) -> None:
        """Measure every part."""
        for name, (pss_bytes, _) in self.site.taken().items():
            if pss_bytes > self.pss_max_bytes.get(name, 0):
                self.pss_max_bytes[name] = pss_bytes

    def bounds(self) -> list[str]:
        """What was over its bound, or is now that nothing is left to do."""
        self.weigh()
        found = []
        for name, pss_bytes in self.pss_max_bytes.items():
            limit = PSS_MAX_BYTES.get(name, PSS_MAX_BYTES["worker"])
            if pss_bytes > limit:
                found.append(f"I17: {name} took {pss_bytes / MIB:.0f} MiB, more than {limit / MIB:.0f}")
        for name, (_, descriptors) in self.site.taken().items():
            if descriptors > DESCRIPTORS_MAX:
                found.append(f"I12: {name} has {descriptors} descriptors open")
        return found
