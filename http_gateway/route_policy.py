"""What every route needs: one table, deny by default. A route that is not in it stops the start.

A route needs the scopes of the RPCs that it makes (`hostler.policy.RPCS`), all of them; the coordinator asks for them
again. Paths are those of the first place where a family is mounted, and hold for its other places too; HEAD is
GET; a slash at the end does not matter.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from aiohttp import web

from hostler.errors import InternalError
from hostler.policy import Door, Scope

READ, SUBMIT, STOP, OUTPUTS = Scope.JOBS_READ, Scope.JOBS_SUBMIT, Scope.JOBS_STOP, Scope.OUTPUTS_READ
WORKERS, MANAGE, FILES = Scope.WORKERS_READ, Scope.WORKERS_MANAGE, Scope.FILES_WRITE
WORKLOADS = Scope.WORKLOADS_READ


class Rule(NamedTuple):
    """What a route needs of its caller."""

    scopes: tuple[Scope, ...] = ()  # none: whoever is known
    door: Door = Door.AUTHENTICATED
    networks: bool = False  # callers of `admitted_networks` need no key
    downloads: bool = False  # its answer may be a file, of which only so many are sent at once
    other_keys: bool = False  # on this host an x-api-key that is another server's is not looked at
    lasts: bool = False  # it may wait for something, or move much: it is not taken in turns with others of its caller


ANYBODY = Rule(door=Door.ANYBODY, networks=True)
KNOWN = Rule()


def _needs(*scopes: Scope) -> Rule:
    return Rule(scopes=scopes)


def _open(*scopes: Scope) -> Rule:
    return Rule(scopes=scopes, networks=True)


def _sends(*scopes: Scope) -> Rule:
    return Rule(scopes=scopes, downloads=True, lasts=True)


def _lasts(*scopes: Scope, networks: bool = False) -> Rule:
    return Rule(scopes=scopes, networks=networks, lasts=True)


def _with_other_keys(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of a family whose document demands a key of every call, and whose clients thus cannot leave it out."""
    return {name: rule._replace(other_keys=True) for name, rule in rules.items()}


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "GET /health": ANYBODY,
        "GET /openapi.json": ANYBODY,  # the same wherever this version runs
        "GET /docs": ANYBODY,
        "GET /docs/style.css": ANYBODY,
        "GET /metrics": _needs(Scope.METRICS_READ),
        # Start, stop, query
        "POST /start": _lasts(SUBMIT, Scope.JOBS_COMMAND, READ, WORKERS),
        "POST /stop": _lasts(STOP, READ, WORKERS),
        "POST /query": _needs(READ, WORKERS),
        # Native: an item that brings its program needs more, and is refused in its place
        "POST /v1/jobs": _needs(SUBMIT),
        "GET /v1/jobs": _needs(READ),
        "POST /v1/jobs/wait": _lasts(READ),
        "GET /v1/jobs/{id}": _needs(READ),
        "GET /v1/jobs/{id}/explain": _needs(READ),
        "POST /v1/jobs/{id}/stop": _lasts(STOP),
        "POST /v1/jobs/{id}/retry": _needs(SUBMIT),
        "POST /v1/jobs/{id}/signal": _needs(STOP, READ),
        "GET /v1/jobs/{id}/events": _lasts(READ),
        "GET /v1/events": _lasts(READ),
        "GET /v1/jobs/{id}/log": _lasts(READ),
        "GET /v1/jobs/{id}/outputs": _needs(OUTPUTS),
        "GET /v1/jobs/{id}/outputs/archive": _sends(OUTPUTS),
        "GET /v1/jobs/{id}/outputs/files/{path}": _sends(OUTPUTS),
        "GET /v1/jobs/{id}/result": _sends(READ, OUTPUTS),
        "POST /v1/files": _lasts(FILES),
        "GET /v1/workloads": _needs(WORKLOADS),
        "POST /v1/workloads": _needs(Scope.WORKLOADS_WRITE),
        "GET /v1/workloads/{name}": _needs(WORKLOADS),
        "DELETE /v1/workloads/{name}": _needs(Scope.WORKLOADS_WRITE),
        "GET /v1/workers": _needs(WORKERS),
        "POST /v1/workers/{id}/drain": _needs(MANAGE),
        "POST /v1/workers/{id}/resume": _needs(MANAGE),
        "POST /v1/workers/{id}/release": _needs(MANAGE),
        "GET /v1/cluster": _needs(READ),
        # Altron
        "POST /subprocess/job/create": _needs(SUBMIT, WORKLOADS),
        "GET /subprocess/job/get_status": _needs(READ),
        "GET /subprocess/job/get_result": _lasts(READ, OUTPUTS),
        "DELETE /subprocess/job/terminate": _lasts(STOP),
        "POST /discord/message": _lasts(Scope.MESSAGES_SEND, SUBMIT, WORKLOADS, READ, STOP, OUTPUTS, FILES),
        "GET /discord/ping": KNOWN,
        # PiXYZ: jobs and the back end need a key wherever keys are needed at all
        **_with_other_keys(
            {
                "GET /": _open(),
                "GET /processes": _open(WORKLOADS),
                "GET /processes/{process_name}": _open(WORKLOADS),
                "GET /jobs": _needs(READ),
                "POST /jobs": _lasts(SUBMIT, WORKLOADS, FILES),
                "GET /jobs/{job_uuid}": _needs(READ),
                "GET /jobs/{job_uuid}/details": _needs(READ, OUTPUTS),
                "GET /jobs/{job_uuid}/outputs": _needs(OUTPUTS),
                "GET /jobs/{job_uuid}/outputs/archive": _sends(OUTPUTS),
                "GET /jobs/{job_uuid}/outputs/{file_path}": _sends(OUTPUTS),
                "GET /backend/get_task_meta/{job_uuid}": _needs(READ, OUTPUTS),
                "POST /dev/callback": KNOWN,
            }
        ),
        # Infernet, whose callers may be admitted by their networks
        "GET /info": _open(READ, WORKLOADS),
        "POST /api/jobs": _open(SUBMIT, WORKLOADS, FILES),
        "POST /api/jobs/batch": _open(SUBMIT, WORKLOADS, FILES),
        "GET /api/jobs": _lasts(READ, OUTPUTS, networks=True),
        "PUT /api/status": _open(Scope.STATUS_WRITE),
        "POST /api/jobs/stream": _lasts(SUBMIT, WORKLOADS, FILES, READ, STOP, networks=True),
        "GET /resources": _open(WORKLOADS),
    }
)
# With the setting `key_for_processes` they need a key as the rest of their family does.
PROCESSES = ("GET /processes", "GET /processes/{process_name}")


class RoutePolicy:
    """The rule of each route of an application."""

    def __init__(self, *, key_for_processes: bool = False, rules: Mapping[str, Rule] = RULES) -> None:
        keyed = {name: rules[name]._replace(networks=False) for name in PROCESSES if key_for_processes}
        self._rules = {**rules, **keyed}
        self._by_route: dict[web.AbstractRoute, tuple[str, Rule]] = {}

    def add(self, routes: Iterable[web.AbstractRoute], *, prefix: str, first_prefix: str) -> None:
        """Take in routes that were mounted at *prefix*; their family is at home at *first_prefix*.

        Raises:
            InternalError: one of them has no rule.
        """
        for route in _with_head(routes):
            path = "" if route.resource is None else route.resource.canonical
            name = name_of(route.method, first_prefix + path.removeprefix(prefix))
            rule = self._rules.get(name)
            if rule is None:
                raise InternalError(f"the route {name} has no rule in http_gateway/route_policy.py")
            self._by_route[route] = (name, rule)

    def check(self) -> None:
        """Check that every rule has a route. Raises InternalError."""
        unused = set(self._rules) - {name for name, _ in self._by_route.values()}
        if unused:
            raise InternalError(f"rules of http_gateway/route_policy.py that no route has: {', '.join(sorted(unused))}")

    def rule_named(self, method: str, path: str) -> Rule:
        """Return what a route needs, by its method and its path at the first place of its family."""
        return self._rules[name_of(method, path)]

    def rule_of(self, request: web.Request) -> Rule | None:
        """Return what a request needs; None: no route takes it. Raises InternalError for a route that was not added."""
        if request.match_info.http_exception is not None:
            return None
        found = self._by_route.get(request.match_info.route)
        if found is None:
            raise InternalError("this route has no rule, and is not served")
        return found[1]


def _with_head(routes: Iterable[web.AbstractRoute]) -> Iterator[web.AbstractRoute]:
    """The routes, and those that aiohttp has made besides and does not tell: HEAD for GET."""
    for route in routes:
        yield from (
            (route,)
            if route.resource is None
            else (each for each in route.resource if each.method in ("HEAD", route.method))
        )


def name_of(method: str, path: str) -> str:
    """Return how a route is called in the table."""
    return f"{'GET' if method == 'HEAD' else method} {path.rstrip('/') or '/'}"
