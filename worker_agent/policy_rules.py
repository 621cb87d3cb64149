"""What holds on this worker, put together once at the agent's start: its policy, and what the policy needs here.

Whatever a policy asks for and this host cannot give ends the start: a rule that is not kept is worse than none.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from hostler.errors import InvalidRequest
from hostler.settings import Settings
from worker_agent.capacity import HARDENED, confinement_refusal
from worker_agent.local_policy import Containment, Policy
from worker_agent.policy_file import check_root, is_shared_tmp, policy_of
from worker_agent.shared_place import make_shared
from worker_agent.slot_users import Confining, confining_of

_NEEDED: Final = {
    "memory_bytes_max": "memory_limit",
    "cpus_max": "cpu_limit",
    "pids_max": "pids_limit",
}


class Rules(NamedTuple):
    """What one worker's programs are held by."""

    policy: Policy
    confining: Confining
    start_path: str  # of programs that do not say it
    volumes_allowed: tuple[str, ...]
    shared: Path | None  # for what other users have to reach

    def check(self, abilities: Collection[str]) -> None:
        """Raise InvalidRequest when this host can do less than the policy needs."""
        for rule, ability in _NEEDED.items():
            if getattr(self.policy, rule) and ability not in abilities:
                text = f"policy: {rule} cannot be kept here: this worker has no control groups for it"
                raise InvalidRequest(text, field=rule)


async def rules_of(settings: Settings, directory: Path, *, elsewhere: bool) -> Rules:
    """Read the policy of the worker with this data directory, and try what it asks for.

    *elsewhere*: its coordinator is on another host. Raises InvalidRequest.
    """
    policy = policy_of(settings, elsewhere=elsewhere)
    check_root(settings, policy)
    confining = confining_of(policy)
    if not confining.is_free:
        tried = confining.example().to_json()
        if reason := await confinement_refusal(json.dumps(tried)):
            raise InvalidRequest(f"policy: it cannot be kept on this host: {reason}", field="policy_file")
    _check_tmp(policy, directory)
    return Rules(
        policy=policy,
        confining=confining,
        start_path=HARDENED if Containment.HARDENED in policy.containment else settings.start_path,
        volumes_allowed=within(settings.volumes_allowed, policy.roots) if policy.roots else settings.volumes_allowed,
        shared=make_shared(Path(policy.work_dir), directory) if policy.switches else None,
    )


def _check_tmp(policy: Policy, directory: Path) -> None:
    if policy.private_tmp and not policy.switches and is_shared_tmp(directory.resolve()):
        raise InvalidRequest(f"policy: private_tmp would hide the data directory {directory}", field="private_tmp")


def within(allowed: Collection[str], roots: Collection[str]) -> tuple[str, ...]:
    """Return the directories below which lies what is below one of *allowed* and below one of *roots*."""
    found: dict[str, None] = {}
    for one in map(os.path.realpath, allowed):
        for root in map(os.path.realpath, roots):
            common = os.path.commonpath((one, root))
            if common in (one, root):
                found[root if common == one else one] = None
    return tuple(found)
