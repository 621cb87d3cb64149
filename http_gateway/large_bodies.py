"""JSON bodies that may be large, of which only a few are held at once."""

from aiohttp import web

from hostler.errors import Overloaded
from http_gateway import bodies

LARGE_BODIES_MAX = 8  # over `bodies.BODY_BYTES_MAX`


class LargeBodies:
    """Reads bodies of up to `bodies.BATCH_BYTES_MAX`; those that are small are not counted."""

    def __init__(self) -> None:
        self._held = 0

    async def read_json(self, request: web.Request) -> object:
        """Read the request's body as JSON.

        Raises:
            Overloaded: enough large ones arrive already.
            HostlerError: as `bodies.read_json` does.
        """
        if (request.content_length or bodies.BATCH_BYTES_MAX) <= bodies.BODY_BYTES_MAX:
            return await bodies.read_json(request)
        if self._held >= LARGE_BODIES_MAX:
            raise Overloaded("too many large bodies arrive at once; try again in a second", retry_after_s=1.0)
        self._held += 1
        try:
            return await bodies.read_json(request, bytes_max=bodies.BATCH_BYTES_MAX)
        finally:
            self._held -= 1
