"""What this gateway can do, as an OpenAPI document and as a page.

    GET /openapi.json     the document, for programs
    GET /docs             the same as a page, which needs nothing from elsewhere and runs nothing
    GET /docs/style.css   how it looks
    errors                {"error"}

The document is made at the first question and kept: it is the same for as long as the gateway runs.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from http_gateway.api import FIXED_HEADERS, Api
from http_gateway.document_page import STYLE, STYLE_PATH, page_of
from http_gateway.operations import OBJECT, Answer, documented, raw

# Nothing but its own style sheet may be loaded, and nothing at all may run.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE_HEADERS = MappingProxyType({**FIXED_HEADERS, "Content-Security-Policy": PAGE_POLICY})


class DocumentPages:
    """The endpoints. *make* makes the document, which also describes these."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make
        self._json = b""
        self._page = ""

    def api(self) -> Api:
        """Return the family."""
        return Api(
            name="document",
            prefixes=("",),
            owns=("/openapi.json", "/docs"),
            routes=(
                web.get("/openapi.json", self.document),
                web.get("/docs", self.page),
                web.get(STYLE_PATH, self.style),
            ),
        )

    @documented(Answer(schema=OBJECT, text="an OpenAPI document, version 3.1"))
    async def document(self, _: web.Request) -> web.Response:
        """Retrieve this document."""
        self._prepare()
        return web.Response(body=self._json, headers={**FIXED_HEADERS, "Content-Type": "application/json"})

    @documented(raw("text/html"))
    async def page(self, _: web.Request) -> web.Response:
        """Retrieve this document as a page."""
        self._prepare()
        return web.Response(text=self._page, content_type="text/html", headers=_PAGE_HEADERS)

    @documented(raw("text/css"))
    async def style(self, _: web.Request) -> web.Response:
        """Retrieve how the page looks."""
        return web.Response(text=STYLE, content_type="text/css", headers=_PAGE_HEADERS)

    def _prepare(self) -> None:
        if not self._json:
            document = self._make()
            self._json = msgspec.json.encode(document) + b"\n"
            self._page = page_of(document)
