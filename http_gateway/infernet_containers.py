"""The containers of the Infernet API: what the coordinator knows, kept for a second, and the guardian's word.

One list serves all callers of the same second. A request is refused only by a list that was asked
for after it came, so that a workload can be used as soon as it is registered.
"""

import asyncio
from collections.abc import Mapping, Sequence

from hostler.client import Client
from hostler.errors import DeadlineExceeded
from hostler.workloads import Workload
from http_gateway.fresh import Fresh
from http_gateway.infernet_shapes import JobRequest, Refused, check_request, is_container
from http_gateway.networks import Address

FRESH_S = 1.0
ANSWER_S = 5.0  # for the coordinator to list its workloads: no published client waits longer for such an answer
SLICE_ITEMS = 500  # looked at before others get their turn


class Containers:
    """Lists the containers and guards them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: Fresh[Mapping[str, Workload]] = Fresh(self._ask, age_s_max=FRESH_S)

    async def known(self, principal: str) -> Mapping[str, Workload]:
        """Return the containers by name, those that only later stages may name included.

        Raises:
            HostlerError: the coordinator does not say; a DeadlineExceeded after a second.
        """
        return await self._known.get(principal)

    async def check(
        self, requests: Sequence[JobRequest | Refused], address: Address | None, principal: str
    ) -> list[JobRequest | Refused]:
        """Put the guardian's refusal in the place of each request that it does not let pass."""
        known = await self.known(principal)
        checked = await _checked(requests, known, address)
        refused = [before is not after for before, after in zip(requests, checked, strict=True)]
        if not any(refused):
            return checked
        return await _checked(requests, await self._known.get_new(principal), address)

    async def _ask(self, principal: str) -> Mapping[str, Workload]:
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await self._client.workloads.list(principal=principal)
        except TimeoutError:
            raise DeadlineExceeded(f"the coordinator has not said its workloads within {ANSWER_S:g} s") from None
        return {workload.name: workload for workload in found if is_container(workload)}


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
