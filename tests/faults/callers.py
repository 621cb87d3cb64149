"""The three doors through which a fault run's jobs come: gRPC, /v1, and start/stop/query.

Every answer is counted, and one that no document knows is an `Undocumented` (I16). What may be asked again raises
`hostler.errors.Unavailable`, whatever the door.
Limits: /start takes no key, so a call that was not answered may have made a job; `unanswered` says which paths such
jobs have.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from hostler.errors import DeadlineExceeded, HostlerError, Overloaded, Unavailable
from hostler.jobs import Job
from hostler.lifecycle import Outcome, State
from hostler.shape import job_shape
from tests.faults.programs import Plan
from tests.faults.site import Site

FAMILY = "scheduler"
CALL_S = 5.0
START_AGAIN_S = 0.5  # each call may make a job
NOT_NOW = (429, 503, 504)
AWAY = "worker not found"  # it is not connected now
STILL = "the job was told to end and has not ended yet; stop it again to wait for it"
ERROR_TEXTS = {"/start": (AWAY,), "/stop": (AWAY, STILL), "/query": (AWAY,)}
_SHAPES = {"/start": {"job_id"}, "/stop": {"success"}, "/query": {"done", "error", "error_text"}}


class Undocumented(AssertionError):
    """A caller got an answer that no document knows."""


@dataclass(slots=True)
class Callers:
    """Calls a site as its users do."""

    site: Site
    answers: Counter[str] = field(default_factory=Counter)  # by door and what was answered
    unanswered: dict[str, Plan] = field(default_factory=dict)  # by path, of calls of /start
    worker_ids: dict[str, str] = field(default_factory=dict)
    _calls: int = 0
    _session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End what is open to the gateway."""
        if self._session is not None:
            await self._session.close()

    async def meet_workers(self) -> None:
        """Learn the ids of the workers, for /start."""
        self.worker_ids = {worker.name: worker.id for worker in await self.site.client.workers()}

    # -- submit

    async def submit(self, plan: Plan) -> str:
        """Submit a job through its door and return its id."""
        verbs = {"v1": self._submit_by_v1, "start": self._start}
        return await verbs.get(plan.door, self._submit)(plan)

    async def _submit(self, plan: Plan) -> str:
        try:
            (answer,) = await self.site.client.submit([plan.spec(self.site.truth)], timeout_s=CALL_S)
        except HostlerError as error:
            self._count("grpc", error)
            raise
        self._count("grpc", answer if isinstance(answer, HostlerError) else None)
        if isinstance(answer, HostlerError):
            raise answer
        return answer

    async def _submit_by_v1(self, plan: Plan) -> str:
        status, content = await self._post("/v1/jobs", {"jobs": [plan.item(self.site.truth)]})
        try:
            (found,) = content["jobs"]
            if status == 200 and set(found) == {"id"}:
                return str(found["id"])
            assert status == 200 and set(found) == {"error"} and set(found["error"]) == {"code", "message", "field"}
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise Undocumented(f"POST /v1/jobs answered {status}: {content}") from error
        code = found["error"]["code"]
        self.answers[f"/v1 {code}"] += 1
        if code in ("unavailable", "overloaded", "deadline_exceeded"):
            raise Unavailable(f"the gateway: {found}")
        raise Undocumented(f"POST /v1/jobs refused a right job: {found}")

    async def _start(self, plan: Plan) -> str:
        self._calls += 1
        path = self.site.directory / f"start-{plan.number}-{self._calls}.sh"
        path.write_text(plan.script(self.site.truth))
        self.unanswered[str(path)] = plan
        asked = {"worker_id": self.worker_ids[plan.worker], "command": "sh", "path": str(path)}
        status, content = await self._ask("/start", asked)
        if status == 500:
            await asyncio.sleep(START_AGAIN_S)
            raise Unavailable(f"/start: {content['error']}")
        if status != 201:
            raise Undocumented(f"/start answered {status}: {content}")
        del self.unanswered[str(path)]
        return str(content["job_id"])

    # -- stop and look

    async def stop(self, plan: Plan, job: str) -> bool:
        """Ask for the end of a job; whether it is proved that nothing is left of it.

        Raises:
            Unavailable: it has not ended yet, or cannot be asked for now.
        """
        if plan.door == "start":
            status, content = await self._ask("/stop", {"worker_id": self.worker_ids[plan.worker], "job_id": job})
            if status == 500:
                raise Unavailable(f"/stop: {content['error']}")
            return True
        if plan.door == "v1":
            status, content = await self._post(f"/v1/jobs/{job}/stop", {"grace": plan.grace_s})
            if status == 202:
                raise Unavailable("it is still stopping")
            if status != 200 or content.get("state") != "finished":
                raise Undocumented(f"POST /v1/jobs/{job}/stop answered {status}: {content}")
            receipt = content["receipt"]
            return bool(receipt and receipt["verified_by"])
        try:
            found = await self.site.client.stop(job, grace_s=plan.grace_s, wait_s=CALL_S)
        except HostlerError as error:
            self._count("grpc", error)
            raise
        self._count("grpc", None)
        if found.state is not State.FINISHED:
            raise Unavailable("it is still stopping")
        return found.end is not None and found.end.nothing_left

    async def _ask(self, path: str, body: dict[str, str]) -> tuple[int, Any]:
        """Call start/stop/query: the status is the good one or 500 with a text that may be expected."""
        status, content = await self._post(path, body)
        texts = ERROR_TEXTS[path]
        if status == 500 and set(content) == {"error"} and content["error"] in texts:
            self.answers[f"{path} {content['error'][:30]}"] += 1
            return status, content
        if status != (201 if path == "/start" else 200) or set(content) != _SHAPES[path]:
            raise Undocumented(f"{path} answered {status}: {content}")
        return status, content

    async def _post(self, path: str, body: object) -> tuple[int, Any]:
        return await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        url, door = self.site.gateway_url, "/v1" if path.startswith("/v1") else path
        if not url:
            raise Unavailable("the gateway has not said where it listens")
        if self._session is None:
            # A connection for each call: one that was kept may lead to a gateway that has been killed.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S), connector=connector)
        try:
            async with self._session.request(method, f"{url}{path}", json=body) as answer:
                content = await answer.json()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            self.answers[f"{door} no answer"] += 1
            raise Unavailable(f"the gateway: {type(error).__name__} {error}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise Undocumented(f"{path}: {type(error).__name__}: {error}") from error
        self.answers[f"{door} {answer.status}"] += 1
        if answer.status in NOT_NOW:
            if answer.status != 504 and "Retry-After" not in answer.headers:
                raise Undocumented(f"{path} answered {answer.status} without Retry-After: {content}")
            raise Unavailable(f"the gateway answered {answer.status}")
        return answer.status, content

    def _count(self, door: str, error: HostlerError | None) -> None:
        self.answers[f"{door} {'ok' if error is None else error.code.value}"] += 1
        if error is not None and not isinstance(error, Unavailable | Overloaded | DeadlineExceeded):
            raise Undocumented(f"{door}: {error.code.value}: {error}")

    # -- what the doors say about one job that is over

    async def disagreements(self, plan: Plan, job: Job) -> list[str]:
        """What /v1 and start/stop/query say about a job otherwise than gRPC."""
        found = []
        status, shown = await self._call("GET", f"/v1/jobs/{job.id}")
        expected = json.loads(json.dumps(job_shape(job)))
        if status != 200:
            return [f"/v1 answered {status}: {shown}"]
        keys = [key for key in expected if shown.get(key) != expected[key]] + [
            key for key in shown if key not in expected
        ]
        found += [f"{key} is {shown.get(key)!r} by /v1 and {expected.get(key)!r} by gRPC" for key in keys]
        worker = self.worker_ids[plan.worker or "w1"]
        status, shown = await self._post("/query", {"worker_id": worker, "job_id": job.id})
        said = self._query_of(plan, job)
        if (status, shown) != said:
            found.append(f"/query answered {status} {shown}, and it should be {said}")
        return found

    @staticmethod
    def _query_of(plan: Plan, job: Job) -> tuple[int, dict[str, object]]:
        if plan.door != "start":
            return 500, {"error": "job not found"}  # of another family
        if job.outcome is Outcome.LOST:
            return 500, {"error": AWAY}
        end = job.end
        assert end is not None
        text = "signal: killed" if end.cause == "stop" or end.signal == "SIGKILL" else ""
        if end.exit_code:
            text = f"exit status {end.exit_code}"
        return 200, {"done": True, "error": bool(text), "error_text": text}

    async def by_command_line(self, job: Job) -> list[str]:
        """What `hostler show` says about a job otherwise than gRPC."""
        shown = await self.site.command_line("show", "--json", job.id)
        expected = json.loads(json.dumps(job_shape(job)))
        if shown != expected:
            return [f"hostler show says {shown}, and gRPC {expected}"]
        return []
