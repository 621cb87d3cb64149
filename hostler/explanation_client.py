"""Asks a coordinator why a job is as it is: a part of `hostler.client.Client`."""

from collections.abc import Callable

import grpc.aio

from hostler.explanation import Explained
from hostler.v1 import jobs_pb2, jobs_pb2_grpc
from hostler.wire.errors import CALLING
from hostler.wire.explained import explained_from_proto

CALL_S = 30.0


class ExplanationClient:
    """The call about why. `Client.explanations` is one."""

    def __init__(self, channel: grpc.aio.Channel, principal: Callable[[str | None], str]) -> None:
        self._jobs = jobs_pb2_grpc.JobsStub(channel)
        self._as = principal

    async def of(self, job: str, *, family: str = "", principal: str | None = None) -> Explained:
        """Return what is known of why a job is as it is, with its transitions up to now.

        Raises:
            JobNotFound: there is no such job, or not for this caller and family.
        """
        request = jobs_pb2.GetRequest(id=job, family=family, principal=self._as(principal))
        with CALLING:
            return explained_from_proto(await self._jobs.Explain(request, timeout=CALL_S))
