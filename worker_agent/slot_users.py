"""Who the programs of a worker run as: the users that its policy names, and which shim has which of them.

With one user for all (`run_as`) every shim has it. With one for each slot (`slot_users`) a shim has its user for as
long as it lives: two programs that run at one time never share one. A user goes to another shim only when the one that
had it has ended.
Limits: one event loop; the user database is read once, at the start.
"""

import pwd
import re
from collections.abc import Mapping, Sequence
from grp import getgrall
from typing import Any, Final

from hostler.errors import InvalidRequest
from worker_agent.confinement import Confinement, User
from worker_agent.local_policy import Policy

USERS_MAX: Final = 4096
_RANGE: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


class Confining:
    """Gives each shim of one worker its confinement."""

    def __init__(self, common: Confinement, users: Sequence[User] = (), *, shared: bool = False) -> None:
        """*common* holds for all; *users* are one for each shim, or with *shared* one for all; none: the worker's."""
        self._common, self._shared = common, shared
        self._users = {user.uid: user for user in users}
        self._held: dict[int, int] = {}  # shim -> uid

    @property
    def shims_max(self) -> int:
        """How many shims there can be at one time; 0: as many as are wanted."""
        return 0 if self._shared else len(self._users)

    @property
    def is_free(self) -> bool:
        """Whether nothing is confined."""
        return not self._users and self._common == Confinement()

    def example(self) -> Confinement:
        """Return what holds for some shim."""
        return self._common._replace(user=next(iter(self._users.values()), None))

    def lease(self, shim: int) -> Confinement | None:
        """Return what holds for a new shim; None: every user is taken."""
        if not self._users:
            return self._common
        if self._shared:
            return self.example()
        taken = set(self._held.values())
        for uid, user in self._users.items():
            if uid not in taken:
                self._held[shim] = uid
                return self._common._replace(user=user)
        return None

    def note(self, shim: int, uid: int) -> None:
        """A shim of an earlier agent has this user."""
        if uid in self._users and not self._shared:
            self._held[shim] = uid

    def release(self, shim: int) -> None:
        """The shim has ended, and with it whatever ran as its user."""
        self._held.pop(shim, None)

    def fits(self, told: Mapping[str, Any] | None) -> bool:
        """Whether what holds for a shim of an earlier agent is what would hold for a new one."""
        try:
            theirs = Confinement.from_json(told)
        except (KeyError, TypeError):
            return False
        user = theirs.user
        is_known = user is None if not self._users else user is not None and self._users.get(user.uid) == user
        return is_known and theirs._replace(user=None) == self._common


FREELY: Final = Confining(Confinement())


def confining_of(policy: Policy) -> Confining:
    """Return what a policy asks for. Raises InvalidRequest when its users are not there."""
    roots, tmp, contained = policy.roots, policy.private_tmp, "cgroup" in policy.containment
    common = Confinement(roots=roots, private_tmp=tmp, cgroup=contained)
    if policy.run_as:
        return Confining(common, [_user(policy.run_as)], shared=True)
    return Confining(common, _slot_users(policy.slot_users) if policy.slot_users else ())


def _user(text: str) -> User:
    try:
        entry = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        raise InvalidRequest(f"policy: run_as is {text!r}, and this host has no such user", field="run_as") from None
    return _of(entry, "run_as")


def _of(entry: pwd.struct_passwd, field: str) -> User:
    if entry.pw_uid == 0:
        raise InvalidRequest(f"policy: {field} names root; say allow_root = true instead", field=field)
    groups = {each.gr_gid for each in getgrall() if entry.pw_name in each.gr_mem} - {entry.pw_gid}
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(sorted(groups)), entry.pw_dir or "/")


def _slot_users(text: str) -> list[User]:
    if found := _RANGE.fullmatch(text):
        return _numbered(int(found[1]), int(found[2]))
    if text.count("%d") != 1 or text.count("%") != 1:
        raise InvalidRequest(
            f"policy: slot_users is {text!r}; the form is name-%d, for users name-1, name-2 and so on, or FIRST-LAST",
            field="slot_users",
        )
    users: list[User] = []
    while len(users) < USERS_MAX:
        try:
            entry = pwd.getpwnam(text.replace("%d", str(len(users) + 1)))
        except KeyError:
            break
        users.append(_of(entry, "slot_users"))
    if not users:
        first = text.replace("%d", "1")
        raise InvalidRequest(f"policy: slot_users: this host has no user {first}", field="slot_users")
    return users


def _numbered(first: int, last: int) -> list[User]:
    """Users that are numbers alone; a number that somebody has is not for jobs."""
    if not 0 < first <= last < 2**32 - 1 or last - first >= USERS_MAX:
        raise InvalidRequest(f"policy: slot_users are 1 to {USERS_MAX} numbers, and none is 0", field="slot_users")
    # Their numbers are those of their groups, too: what a group of the host may do is not for jobs.
    taken = [(entry.pw_uid, f"user {entry.pw_name}") for entry in pwd.getpwall()]
    taken += [(entry.gr_gid, f"group {entry.gr_name}") for entry in getgrall()]
    for number, whose in taken:
        if first <= number <= last:
            text = f"policy: slot_users: number {number} is the {whose}; choose a range that is free"
            raise InvalidRequest(text, field="slot_users")
    return [User(f"job-{uid}", uid, uid) for uid in range(first, last + 1)]
