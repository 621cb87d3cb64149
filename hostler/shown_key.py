"""A channel without TLS on which every call shows a key; for the unix socket and loopback only, see `hostler.client`.

gRPC carries call credentials over TLS alone, and its interceptors put a stream of their own, which is written
differently, in the place of each stream. So the key is put into the metadata where calls are begun. Limits: it looks
at no address; whoever makes one has made sure that the channel does not leave this host.
"""

from typing import Any, Self

import grpc
import grpc.aio


class KeyShowing(grpc.aio.Channel):  # type: ignore[misc, unused-ignore]
    """Another channel, with a key on each call."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        """Show *key* on the calls of *channel*, which is closed with this one."""
        self._channel: Any = channel
        self._shown = (("authorization", f"Bearer {key}"),)

    async def __aenter__(self) -> Self:
        """Open until left."""
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Close it, and every call."""
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close it; calls that are open have *grace* seconds."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As of any channel."""
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As of any channel."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As of any channel."""
        await self._channel.channel_ready()

    def unary_unary(self, *named: Any, **more: Any) -> Any:
        """What begins calls of a method."""
        return self._showing(self._channel.unary_unary(*named, **more))

    def unary_stream(self, *named: Any, **more: Any) -> Any:
        """What begins calls of a method."""
        return self._showing(self._channel.unary_stream(*named, **more))

    def stream_unary(self, *named: Any, **more: Any) -> Any:
        """What begins calls of a method."""
        return self._showing(self._channel.stream_unary(*named, **more))

    def stream_stream(self, *named: Any, **more: Any) -> Any:
        """What begins calls of a method."""
        return self._showing(self._channel.stream_stream(*named, **more))

    def _showing(self, begin: Any) -> Any:
        def call(*request: Any, metadata: Any = None, **more: Any) -> Any:
            return begin(*request, metadata=(*(metadata or ()), *self._shown), **more)

        return call
