"""What a caller may do: scopes, roles, and the one table of every RPC with what it needs.

Pure. Deny by default: what is not in the table is refused, and a server that finds a method of its own
missing does not start. Scopes are compared whole, never by prefix. Whose job something is comes on top:
a job of somebody else looks like one that does not exist, unless the caller has ``jobs:any-owner``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Scope(StrEnum):
    """One thing a caller may do."""

    JOBS_READ = "jobs:read"  # one's own jobs, their logs and events
    JOBS_SUBMIT = "jobs:submit"  # jobs that name a workload
    JOBS_COMMAND = "jobs:arbitrary-command"  # jobs that run any command: whoever has it owns the workers' job user
    JOBS_SCRIPT = "jobs:script"  # jobs that bring their program with them: code, as the one before
    SECRETS_USE = "secrets:use"  # jobs that get secrets by their names: who may run a program can then read them
    JOBS_STOP = "jobs:stop"  # stop, signal and feed one's own jobs
    JOBS_ANY_OWNER = "jobs:any-owner"  # see and act on everybody's
    OUTPUTS_READ = "outputs:read"
    FILES_WRITE = "files:write"  # store bytes for jobs
    STATUS_WRITE = "status:write"  # note jobs that run elsewhere
    MESSAGES_SEND = "messages:send"  # Altron's Discord messages
    WORKLOADS_READ = "workloads:read"
    WORKLOADS_WRITE = "workloads:write"
    WORKERS_READ = "workers:read"
    WORKERS_MANAGE = "workers:manage"  # drain, resume, release, revoke
    WORKERS_JOIN = "workers:join"  # invite workers
    METRICS_READ = "metrics:read"
    AUDIT_READ = "audit:read"
    KEYS_MANAGE = "keys:manage"  # with no more scopes than one's own
    PRINCIPALS_ASSERT = "principals:assert"  # speak for others: a gateway


VIEWER = frozenset({Scope.JOBS_READ, Scope.OUTPUTS_READ, Scope.WORKLOADS_READ, Scope.WORKERS_READ})
SUBMITTER = VIEWER | {Scope.JOBS_SUBMIT, Scope.JOBS_STOP, Scope.FILES_WRITE, Scope.MESSAGES_SEND}
DEVELOPER = SUBMITTER | {Scope.JOBS_COMMAND, Scope.JOBS_SCRIPT, Scope.STATUS_WRITE}
OPERATOR = DEVELOPER | {
    Scope.JOBS_ANY_OWNER,
    Scope.SECRETS_USE,
    Scope.WORKLOADS_WRITE,
    Scope.WORKERS_MANAGE,
    Scope.WORKERS_JOIN,
    Scope.METRICS_READ,
    Scope.AUDIT_READ,
}
EVERYTHING = frozenset(Scope) - {Scope.PRINCIPALS_ASSERT}
# Of a caller who shows no key and is admitted by network: what the Infernet API needs, on the address's own jobs.
ADDRESS = frozenset(
    {
        Scope.JOBS_READ,
        Scope.JOBS_SUBMIT,
        Scope.JOBS_STOP,
        Scope.OUTPUTS_READ,
        Scope.FILES_WRITE,
        Scope.STATUS_WRITE,
        Scope.WORKLOADS_READ,
    }
)
ROLES: Mapping[str, frozenset[Scope]] = MappingProxyType(
    {
        "viewer": frozenset(VIEWER),
        "submitter": frozenset(SUBMITTER),
        "developer": frozenset(DEVELOPER),
        "operator": frozenset(OPERATOR),
        "admin": EVERYTHING,
        "gateway": frozenset({Scope.PRINCIPALS_ASSERT}),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks, and what they may."""

    name: str  # the owner of what they make
    scopes: frozenset[Scope] = frozenset()
    credential: str = ""  # "local", the id of a key, the serial of a certificate, or an address

    def may(self, scope: Scope) -> bool:
        """Whether they may do one thing."""
        return scope in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether something of *owner* exists for them."""
        return owner == self.name or Scope.JOBS_ANY_OWNER in self.scopes


# A gateway says for whom a request is with these and the id of a key or an IP address.
KEY_PREFIX = "key:"
ADDRESS_PREFIX = "address:"
LOCAL = Principal(name="local", scopes=frozenset(Scope), credential="local")
NOBODY = Principal(name="")


def scopes_of(words: Iterable[str]) -> frozenset[Scope]:
    """The scopes that scopes and names of roles amount to.

    Raises:
        ValueError: one is neither; the text names it.
    """
    found: set[Scope] = set()
    for word in words:
        if word in ROLES:
            found |= ROLES[word]
        else:
            try:
                found.add(Scope(word))
            except ValueError:
                known = ", ".join([*ROLES, *Scope])
                raise ValueError(f"{word[:50]!r} is neither a role nor a scope; they are: {known}") from None
    return frozenset(found)


class Door(StrEnum):
    """Who is let in to an RPC besides callers with a scope."""

    ANYBODY = "anybody"  # health; joining, which the token opens
    WORKER = "worker"  # a worker, by its certificate, or on this host
    AUTHENTICATED = "authenticated"  # whoever is known; the handler looks at each item


# Every RPC, by "Service/Method". A scope, or a door.
RPCS: Mapping[str, Scope | Door] = MappingProxyType(
    {
        "Jobs/Submit": Door.AUTHENTICATED,  # each item needs jobs:submit, and more when it brings a program
        "Jobs/Get": Scope.JOBS_READ,
        "Jobs/Explain": Scope.JOBS_READ,
        "Jobs/List": Scope.JOBS_READ,
        "Jobs/Stop": Scope.JOBS_STOP,
        "Jobs/Retry": Scope.JOBS_SUBMIT,  # each item needs what submitting it needs
        "Jobs/Signal": Scope.JOBS_STOP,
        "Jobs/Feed": Scope.JOBS_STOP,
        "Jobs/Wait": Scope.JOBS_READ,
        "Jobs/Watch": Scope.JOBS_READ,
        "Jobs/ReadLog": Scope.JOBS_READ,
        "Jobs/ListOutputs": Scope.OUTPUTS_READ,
        "Jobs/ReadOutput": Scope.OUTPUTS_READ,
        "Jobs/ReadArchive": Scope.OUTPUTS_READ,
        "Records/Put": Scope.STATUS_WRITE,
        "Records/Find": Scope.JOBS_READ,
        "Files/Put": Scope.FILES_WRITE,
        "Files/Read": Scope.OUTPUTS_READ,
        "Workloads/Apply": Scope.WORKLOADS_WRITE,
        "Workloads/Get": Scope.WORKLOADS_READ,
        "Workloads/List": Scope.WORKLOADS_READ,
        "Workloads/Remove": Scope.WORKLOADS_WRITE,
        "Cluster/ListWorkers": Scope.WORKERS_READ,
        "Cluster/DrainWorker": Scope.WORKERS_MANAGE,
        "Cluster/ResumeWorker": Scope.WORKERS_MANAGE,
        "Cluster/ReleaseWorker": Scope.WORKERS_MANAGE,
        "Cluster/Describe": Scope.JOBS_READ,
        "Cluster/Metrics": Scope.METRICS_READ,
        "Access/CreateKey": Scope.KEYS_MANAGE,
        "Access/ListKeys": Scope.KEYS_MANAGE,
        "Access/RevokeKey": Scope.KEYS_MANAGE,
        "Access/Authenticate": Scope.PRINCIPALS_ASSERT,
        "Access/Invite": Scope.WORKERS_JOIN,
        "Access/Join": Door.ANYBODY,
        "Access/Renew": Door.WORKER,
        "Access/RevokeWorker": Scope.WORKERS_MANAGE,
        "Access/ReadAudit": Scope.AUDIT_READ,
        "Access/NoteRefusals": Scope.PRINCIPALS_ASSERT,
        "Workers/Connect": Door.WORKER,
        "Workers/PushLog": Door.WORKER,
        "Workers/SendOutput": Door.WORKER,
    }
)
