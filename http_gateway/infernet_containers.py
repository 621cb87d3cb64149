"""The containers of the Infernet API: what the coordinator knows, kept for a second, and the guardian's word.

One list serves all callers of the same second. A request is refused only by a list that was asked
for after it came, so that a workload can be used as soon as it is registered.
"""

import asyncio
from collections.abc import Mapping, Sequence

from hostler.client import Client
from hostler.workloads import Workload
from http_gateway.infernet_shapes import Address, JobRequest, Refused, check_request, is_container

FRESH_S = 1.0
SLICE_ITEMS = 500  # looked at before others get their turn


class Containers:
    """Lists the containers and guards them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asking = asyncio.Lock()
        self._known: Mapping[str, Workload] = {}
        self._asked_at = float("-inf")

    async def known(self, *, age_s_max: float = FRESH_S) -> Mapping[str, Workload]:
        """Return the containers by name, those that only later stages may name included."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - age_s_max
        async with self._asking:  # the first caller asks, the others find its answer
            if self._asked_at < oldest:
                asked_at = loop.time()
                found = await self._client.workloads.list()
                self._known = {workload.name: workload for workload in found if is_container(workload)}
                self._asked_at = asked_at
            return self._known

    async def check(
        self, requests: Sequence[JobRequest | Refused], address: Address | None
    ) -> list[JobRequest | Refused]:
        """Put the guardian's refusal in the place of each request that it does not let pass."""
        known = await self.known()
        checked = await _checked(requests, known, address)
        refused = [before is not after for before, after in zip(requests, checked, strict=True)]
        if not any(refused):
            return checked
        known = await self.known(age_s_max=0)
        return await _checked(requests, known, address)


async def _checked(
    requests: Sequence[JobRequest | Refused], known: Mapping[str, Workload], address: Address | None
) -> list[JobRequest | Refused]:
    checked: list[JobRequest | Refused] = []
    for start in range(0, len(requests), SLICE_ITEMS):
        for request in requests[start : start + SLICE_ITEMS]:
            refusal = None if isinstance(request, Refused) else check_request(request, known, address)
            checked.append(refusal or request)
        await asyncio.sleep(0)
    return checked
