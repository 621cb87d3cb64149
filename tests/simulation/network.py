"""The network: connections between processes that carry streams, as gRPC gives them to both sides.

A connection is HTTP/2 over TCP: what is sent on a stream arrives in order and once, or the stream breaks. So the
faults are those of connections: slow ones, silent ones (nothing arrives, in one direction or both, until it is
healed or the keepalive of one side gives up), and broken ones. The two sides never learn of a break at the same
moment. What the two sides see is what grpc.aio shows them: `SimulatedCall` on the client's, `SimulatedContext` on
the server's.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc.aio import Metadata

from tests.simulation.virtual_loop import PROCESS, SimulatedProcess, VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.server import SimulatedServer

KEEPALIVE_S = (10.0, 15.0)  # ping every 10 s, 5 s for its answer
CONNECT_S = 20.0  # until gRPC gives an unanswered connection attempt up
UP, DOWN = 0, 1  # to the server, to the client
Status = tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]


class Network:
    """Every connection there is; decides by chance how long things take."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.server: SimulatedServer | None = None  # who answers at the coordinator's address
        self.connections: list[Connection] = []
        self.unreachable: set[SimulatedProcess] = set()  # new connections of these get no answer

    def delay(self) -> float:
        """How long a message takes when nothing is wrong."""
        return 0.0002 + self.chance.random() * (0.3 if self.chance.random() < 0.01 else 0.003)

    def of(self, process: SimulatedProcess) -> list["Connection"]:
        """The connections of a process, on either side."""
        return [c for c in self.connections if process in (c.client, c.server.process if c.server else None)]

    def on_death(self, process: SimulatedProcess, *, silent: bool = False) -> None:
        """The kernel closes what a dead process had open; *silent*: its host went with it, and nobody says so."""
        for connection in self.of(process):
            side = UP if connection.client is process else DOWN
            connection.ends_over[side] = True
            if silent:
                connection.silence((UP, DOWN))
                connection.dropped[side] = True  # nobody sends again what is still on its way
            else:
                connection.tell_break(1 - side)

    def on_pause(self, process: SimulatedProcess) -> None:
        """A paused process answers no pings: the other side gives up after a while."""
        for connection in self.of(process):
            other = DOWN if connection.client is process else UP
            connection.watch(other, lambda: process.paused and process.alive)


class Connection:
    """One HTTP/2 connection. `UP` is the client's end where ends are told apart."""

    def __init__(self, network: Network, client: SimulatedProcess) -> None:
        self.network = network
        self.client = client
        self.server: SimulatedServer | None = None
        self.calls: list[SimulatedCall] = []
        self.extra_s = 0.0  # a slow link
        self.silent = [False, False]  # by direction
        self.held: list[deque[Callable[[], None]]] = [deque(), deque()]
        self.ends_over = [False, False]  # by end
        self.dropped = [False, False]  # by direction: what does not arrive now never will
        self._last = [0.0, 0.0]
        self._connected: asyncio.Future[None] | None = None

    async def connect(self) -> None:
        """Find the server. Raises AioRpcError when there is none."""
        if self._connected is None:
            self._connected = asyncio.get_running_loop().create_future()
            self.network.connections.append(self)
            unanswered = self.client in self.network.unreachable
            delay_s = CONNECT_S if unanswered else self.network.delay()
            self.network.loop.call_as(None, delay_s, self._establish, unanswered)
        await asyncio.shield(self._connected)
        if self.ends_over[UP] or self.server is None:
            raise failure(grpc.StatusCode.UNAVAILABLE, "failed to connect")

    def _establish(self, unanswered: bool) -> None:
        assert self._connected is not None
        if not unanswered and self.network.server is not None and not self.ends_over[UP]:
            self.server = self.network.server
        if not self._connected.done():
            self._connected.set_result(None)

    def send(self, direction: int, arrive: Callable[[], None]) -> None:
        """Have *arrive* called at the other end, after everything that was sent before."""
        if self.silent[direction]:
            self.held[direction].append(arrive)
            return
        network = self.network
        at = max(self._last[direction], network.loop.now + network.delay() + self.extra_s * network.chance.random())
        self._last[direction] = at
        network.loop.call_as(None, at - network.loop.now, self._arrive, direction, arrive)

    def _arrive(self, direction: int, arrive: Callable[[], None]) -> None:
        if self.dropped[direction]:
            return
        if self.silent[direction]:
            self.held[direction].append(arrive)
        elif not self.ends_over[1 - direction]:
            arrive()

    # Faults

    def silence(self, directions: tuple[int, ...]) -> None:
        """Let nothing arrive any more; either side gives up when its keepalive says so, unless it heals before."""
        for direction in directions:
            self.silent[direction] = True
        for end in (UP, DOWN):
            self.watch(end, lambda: any(self.silent))

    def heal(self) -> None:
        """Let what was held back arrive."""
        for direction in (UP, DOWN):
            self.silent[direction] = False
            held, self.held[direction] = self.held[direction], deque()
            for arrive in held:
                self.send(direction, arrive)

    def cut(self) -> None:
        """Break it: both sides learn of it, each in its time."""
        for end in (UP, DOWN):
            self.network.loop.call_as(None, self.network.chance.random() * 0.1, self._break, end)

    def watch(self, end: int, is_bad: Callable[[], bool]) -> None:
        """The keepalive of one end gives up when it is still bad in a while."""

        def look() -> None:
            if is_bad():
                self._break(end)
                self.tell_break(1 - end)

        self.network.loop.call_as(None, self.network.chance.uniform(*KEEPALIVE_S), look)

    def tell_break(self, end: int) -> None:
        """Have one end learn that the other one is gone, when that news can arrive."""
        self.send(1 - end, lambda: self._break(end))

    def _break(self, end: int) -> None:
        if self.ends_over[end]:
            return
        self.ends_over[end] = True
        drop = self.network.chance.random() < 0.5
        for call in self.calls:
            if end == UP:
                call.finish((grpc.StatusCode.UNAVAILABLE, "the connection broke", ()), drop=drop)
            elif call.context is not None:
                call.context.break_off(drop=drop)
        if end == UP:
            self._forget()

    def _forget(self) -> None:
        if self in self.network.connections and all(self.ends_over):
            self.network.connections.remove(self)

    def close(self) -> None:
        """The client's process closes it."""
        if not self.ends_over[UP]:
            self.ends_over[UP] = True
            for call in self.calls:
                call.finish((grpc.StatusCode.CANCELLED, "the channel was closed", ()), drop=True)
            self.tell_break(DOWN)


def failure(code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str], ...] = ()) -> grpc.aio.AioRpcError:
    """What a failed call raises."""
    return grpc.aio.AioRpcError(code, Metadata(), Metadata(*trailers), details)


class SimulatedCall:
    """A call as its client sees it (grpc.aio.StreamStreamCall), with the two halves of its stream."""

    def __init__(self, connection: Connection, method: str, serialize: Any, deserialize: Any) -> None:
        self._connection = connection
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize
        self.context: SimulatedContext | None = None
        self._inbox: deque[bytes] = deque()
        self._news: asyncio.Future[None] | None = None
        self._status: Status | None = None
        self._opened = False

    async def _open(self) -> None:
        self._opened = True
        await self._connection.connect()
        self._connection.calls.append(self)
        self._connection.send(UP, self._arrived_at_server)

    def _arrived_at_server(self) -> None:
        server = self._connection.server
        if server is not None and server.process.alive:
            self.context = SimulatedContext(self._connection, self)
            server.serve(self._method, self.context)

    async def write(self, message: Any) -> None:
        """See grpc.aio: raises InvalidStateError on a call that is over."""
        if self._status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")
        content = self._serialize(message)
        if not self._opened:
            await self._open()
            self._raise_for_status()
        self._to_server(lambda context: context.push(content))
        await asyncio.sleep(0)

    async def read(self) -> Any:
        """The next message, or EOF; raises AioRpcError when the call failed."""
        if not self._opened:
            await self._open()
        while not self._inbox:
            if self._status is not None:
                self._raise_for_status()
                return grpc.aio.EOF
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._deserialize(self._inbox.popleft())

    async def done_writing(self) -> None:
        """End the half of the client."""
        if self._status is None:
            self._to_server(lambda context: context.half_close())

    def cancel(self) -> bool:
        """End the call."""
        if self._status is not None:
            return False
        self.finish((grpc.StatusCode.CANCELLED, "cancelled", ()), drop=True)
        self._to_server(lambda context: context.break_off(drop=True))
        return True

    def _to_server(self, act: "Callable[[SimulatedContext], None]") -> None:
        """Have something happen to the servicer's side, if the call has arrived there."""

        def arrive() -> None:
            if self.context is not None:
                act(self.context)

        self._connection.send(UP, arrive)

    def _raise_for_status(self) -> None:
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            raise failure(*self._status)

    def push(self, content: bytes) -> None:
        """A message has arrived."""
        if self._status is None:
            self._inbox.append(content)
            self._wake()

    def finish(self, status: Status, *, drop: bool = False) -> None:
        """The call is over, for the client."""
        if self._status is None:
            self._status = status
            if drop:
                self._inbox.clear()
            self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def __aiter__(self) -> "SimulatedCall":
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


class SimulatedContext:
    """A call as its servicer sees it (grpc.aio.ServicerContext)."""

    def __init__(self, connection: Connection, call: SimulatedCall) -> None:
        self._connection = connection
        self._call = call
        self._inbox: deque[bytes] = deque()
        self._news: asyncio.Future[None] | None = None
        self._half_closed = False
        self._trailers: tuple[tuple[str, str], ...] = ()
        self.is_over = False
        self.handler: asyncio.Task[Any] | None = None

    def peer(self) -> str:
        """The coordinator's unix socket."""
        return "unix:"

    async def read(self) -> Any:
        """The next message, or EOF."""
        while not self._inbox:
            if self._half_closed or self.is_over:
                return grpc.aio.EOF
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._inbox.popleft()

    async def write(self, content: bytes) -> None:
        """Send a message."""
        if self.is_over:
            raise grpc.aio.InternalError("the call is over")
        self._connection.send(DOWN, lambda: self._call.push(content))
        await asyncio.sleep(0)

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Send what comes before the first message; nobody here waits for it."""
        if self.is_over:
            raise grpc.aio.InternalError("the call is over")
        await asyncio.sleep(0)

    def set_trailing_metadata(self, trailers: tuple[tuple[str, str], ...]) -> None:
        """Note what goes along with the status."""
        self._trailers = trailers

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error."""
        self.end(code, details)
        raise grpc.aio.AbortError(details)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """Tell the client that the call is over."""
        if not self.is_over:
            self.is_over = True
            status: Status = (code, details, tuple(self._trailers))
            self._connection.send(DOWN, lambda: self._call.finish(status))

    def push(self, content: bytes) -> None:
        """A message has arrived."""
        if not self.is_over:
            self._inbox.append(content)
            self._wake()

    def half_close(self) -> None:
        """The client writes no more."""
        self._half_closed = True
        self._wake()

    def break_off(self, *, drop: bool) -> None:
        """The client is gone: the stream looks ended, and gRPC cancels the handler a little later."""
        if self.is_over:
            return
        self.is_over = True
        if drop:
            self._inbox.clear()
        self._wake()
        server = self._connection.server
        if server is not None and self.handler is not None:
            network = self._connection.network
            network.loop.call_as(server.process, network.chance.random() * 0.005, self.handler.cancel)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class SimulatedChannel:
    """What the generated stubs call; one connection."""

    def __init__(self, network: Network) -> None:
        process = PROCESS.get()
        assert process is not None
        self._network = network
        self._process = process
        self._connection = Connection(network, process)

    def _fresh(self) -> Connection:
        """A channel connects anew when its connection broke."""
        if self._connection.ends_over[UP] or (self._connection._connected and self._connection.server is None):
            self._connection = Connection(self._network, self._process)
        return self._connection

    def stream_stream(self, method: str, *, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """Make the callable of a method."""
        return lambda **options: SimulatedCall(self._fresh(), method, request_serializer, response_deserializer)

    def stream_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """Make the callable of a method."""
        return self.stream_stream(
            method, request_serializer=request_serializer, response_deserializer=response_deserializer
        )

    def unary_stream(self, method: str, *, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """Make the callable of a method."""

        def make(request: Any, **options: Any) -> "UnaryStreamCall":
            call = SimulatedCall(self._fresh(), method, request_serializer, response_deserializer)
            return UnaryStreamCall(call, request)

        return make

    def unary_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """Make the callable of a method."""

        async def ask(request: Any, *, timeout: float | None = None, **options: Any) -> Any:
            call = SimulatedCall(self._fresh(), method, request_serializer, response_deserializer)
            try:
                async with asyncio.timeout(timeout):
                    await call.write(request)
                    await call.done_writing()
                    return await call.read()
            except TimeoutError:
                raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
            except asyncio.InvalidStateError:
                raise failure(grpc.StatusCode.UNAVAILABLE, "the connection broke") from None
            finally:
                call.cancel()

        return ask

    async def close(self, grace: float | None = None) -> None:
        """End every call."""
        self._connection.close()

    async def __aenter__(self) -> "SimulatedChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class UnaryStreamCall:
    """A call with one request and a stream of answers."""

    def __init__(self, call: SimulatedCall, request: Any) -> None:
        self._call = call
        self._request: Any = request

    def __aiter__(self) -> "UnaryStreamCall":
        return self

    async def __anext__(self) -> Any:
        if self._request is not None:
            request, self._request = self._request, None
            await self._call.write(request)
            await self._call.done_writing()
        return await self._call.__anext__()

    def cancel(self) -> bool:
        """End the call."""
        return self._call.cancel()
