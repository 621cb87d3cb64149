"""What stands for the gRPC server: the coordinator's own table of methods, behind the simulated network."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from coordinator.rpc.context import Caller
from coordinator.rpc.guard import Guard
from coordinator.rpc.methods import Services, wrapped
from coordinator.rpc.server import STOP_GRACE_S, Bound, RpcServer
from hostler.policy import LOCAL
from tests.simulation.network import Network, SimulatedContext
from tests.simulation.virtual_loop import PROCESS, SimulatedProcess


class OpenGate:
    """Everybody who comes is our user: who may call is not what is simulated here."""

    def caller(self, context: Any) -> Caller:
        """Who is calling."""
        return Caller(LOCAL, may_assert=True)

    def is_standing(self, caller: Caller) -> bool:
        """Nobody's key goes away."""
        return True


class SimulatedServer(RpcServer):
    """Serves the real methods; `start` takes the coordinator's address over."""

    network: Network  # of the world that is simulated now

    def __init__(self, services: Services, *others: Any) -> None:
        process = PROCESS.get()
        assert process is not None
        self.process: SimulatedProcess = process
        self._handlers: dict[str, Any] = {}
        self._serving: dict[asyncio.Task[Any], None] = {}
        self._stopped = False
        self.owned = []  # nobody is turned away in the simulation
        for name, handlers in wrapped(services, Guard(OpenGate())).items():
            for method, handler in handlers.items():
                self._handlers[f"/{name}/{method}"] = handler

    async def start(self, socket: Path, tcp: tuple[str, int] | None, workers: tuple[str, int] | None = None) -> Bound:
        """Listen; one whose place was taken while it began gets no address any more."""
        if self.process.owner.process is self.process:
            self.network.server = self
        return Bound("", 0)

    async def stop(self) -> None:
        """Take no more calls, give those that are served a moment, and end them."""
        if self.network.server is self:
            self.network.server = None
        self._stopped = True
        if self._serving:
            await asyncio.wait(list(self._serving), timeout=STOP_GRACE_S)
        for handler in self._serving:
            handler.cancel()
        if self._serving:
            await asyncio.wait(list(self._serving), timeout=STOP_GRACE_S)

    def serve(self, method: str, context: SimulatedContext) -> None:
        """A call has arrived."""
        if self._stopped:
            context.end(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            return
        handler = self.network.loop.spawn(self.process, self._handle(self._handlers[method], context))
        context.handler = handler
        self._serving[handler] = None
        handler.add_done_callback(lambda _: self._serving.pop(handler, None))

    async def _handle(self, handler: Any, context: SimulatedContext) -> None:
        code, details = grpc.StatusCode.UNKNOWN, "the handler failed"
        try:
            if handler.stream_stream is not None:
                await handler.stream_stream(None, context)
            elif handler.unary_stream is not None:
                request = await context.read()
                if request is not grpc.aio.EOF:
                    await handler.unary_stream(request, context)
            else:
                request = await context.read()
                if request is not grpc.aio.EOF:
                    await context.write(await handler.unary_unary(request, context))
            code, details = grpc.StatusCode.OK, ""
        except (asyncio.CancelledError, grpc.aio.BaseError, grpc.aio.AbortError):
            pass
        finally:
            context.end(code, details)
