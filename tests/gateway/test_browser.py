"""A real browser with an attacking page of another origin, and with our own pages.

The page tries all that a page can send without asking, and what it must ask for first. A browser sends far more than a
test would think of (headers, preflights, redirects); the gateway must refuse each of them in local mode, where a
program of the same user needs no key.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from hostler.client import Client
from hostler.settings import load
from http_gateway.api import Handler
from http_gateway.app import make_app, serve
from http_gateway.callers import UNSAID
from tests.gateway.conftest import Caller
from tests.gateway.fake_coordinator import FakeCoordinator

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.ci

CHROMIUM = "/usr/bin/chromium"  # Debian's; scripts/test installs it
FOREIGN = "attacker.test"  # resolves to this host in that browser only
FLAGS = [
    "--no-sandbox",  # it cannot have one where the tests are root; no page but ours is opened
    "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
    # This one would ask its user before a page of the internet reaches this host; others do not.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,BlockInsecurePrivateNetworkRequests",
    f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
]  # fmt: skip
# Each way by which a page of another origin can make a browser send something; G is the gateway's address.
ATTACK = """
async (G) => {
  const job = JSON.stringify({jobs: [{argv: ['touch', '/tmp/attacked']}]});
  const start = JSON.stringify({worker_id: '', command: 'true', path: '/'});
  const seen = {};
  const tried = async (name, make) => {
    try { seen[name] = String(await make()); } catch (error) { seen[name] = 'refused'; }
  };
  const settled = (element, attribute, value) => new Promise((resolve, reject) => {
    element.onload = () => resolve('loaded');
    element.onerror = () => reject(new Error());
    element[attribute] = value;
    document.body.append(element);
  });
  const text = async (answer) => `${answer.type} ${answer.status} ${await answer.text()}`;
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/json', 'multipart/form-data'])
    for (const mode of ['cors', 'no-cors'])
      await tried(`fetch ${mode} ${type}`, async () => text(await fetch(
        G + '/v1/jobs', {method: 'POST', mode, body: job, headers: {'Content-Type': type}, credentials: 'include'})));
  for (const method of ['GET', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
    await tried(`fetch ${method}`, async () => text(await fetch(G + '/subprocess/job/terminate?job_id=x', {method})));
  await tried('fetch key', async () => text(await fetch(G + '/v1/jobs', {headers: {'x-api-key': 'x'}})));
  await tried('start', async () => text(await fetch(G + '/start', {method: 'POST', mode: 'no-cors', body: start})));
  await tried('beacon', () => navigator.sendBeacon(G + '/v1/jobs', new Blob([job], {type: 'text/plain'})));
  await tried('beacon form', () => navigator.sendBeacon(G + '/v1/jobs', new URLSearchParams({jobs: job})));
  await tried('image', () => settled(new Image(), 'src', G + '/v1/jobs'));
  await tried('script', () => settled(document.createElement('script'), 'src', G + '/openapi.json'));
  const style = Object.assign(document.createElement('link'), {rel: 'stylesheet'});
  await tried('style', () => settled(style, 'href', G + '/docs/style.css'));
  await tried('events', () => new Promise((resolve, reject) => {
    const source = new EventSource(G + '/v1/events');
    source.onopen = () => resolve('open');
    source.onerror = () => { source.close(); reject(new Error()); };
  }));
  await tried('socket', () => new Promise((resolve, reject) => {
    const socket = new WebSocket(G.replace('http', 'ws') + '/v1/events');
    socket.onopen = () => resolve('open');
    socket.onerror = () => reject(new Error());
  }));
  for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data'])
    for (const path of ['/v1/jobs', '/jobs', '/start', '/api/jobs', '/subprocess/job/create', '/discord/message']) {
      const frame = Object.assign(document.createElement('iframe'), {name: `f${Math.random()}`});
      const form = Object.assign(document.createElement('form'), {method: 'POST', enctype, target: frame.name});
      form.action = G + path;
      form.append(Object.assign(document.createElement('input'), {name: job.slice(0, -1) + ', "x": "', value: '"}'}));
      document.body.append(frame, form);
      const done = new Promise((resolve) => { frame.onload = resolve; });
      form.submit();
      await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 2000))]);
    }
  return seen;
}
"""


@asynccontextmanager
async def a_page_elsewhere() -> AsyncIterator[int]:
    """A server with an empty page, on a port of its own."""

    async def page(_: web.Request) -> web.Response:
        text = "<!doctype html><link rel=icon href='data:,'><title>attack</title><body>"
        return web.Response(text=text, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def browser() -> AsyncIterator["Browser"]:
    """Chromium without a window."""
    # Takes half a second to load, which the quick suite is spared.
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        await opened.close()


Answers = list[tuple[str, str, int]]  # method, path, status


@asynccontextmanager
async def local_gateway(coordinator: FakeCoordinator, directory: Path) -> AsyncIterator[tuple[Caller, Answers]]:
    """A gateway in local mode, a program of its user, and what it has answered."""
    answers: Answers = []

    @web.middleware
    async def noting(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        answers.append((request.method, request.path, answer.status))
        return answer

    async with Client(coordinator.address, principal=UNSAID) as client, aiohttp.ClientSession() as session:
        app = make_app(client, load(data_dir=directory))
        app.middlewares.insert(0, noting)
        async with serve(app, "127.0.0.1", 0) as url:
            yield Caller(url, session), answers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", FOREIGN])
async def test_nothing_that_a_foreign_page_sends_is_taken(
    browser: "Browser", coordinator: FakeCoordinator, tmp_path: Path, host: str
) -> None:
    """Another port of the same host is another origin, and so is another name of it."""
    async with a_page_elsewhere() as port, local_gateway(coordinator, tmp_path) as (gateway, answers):
        page = await browser.new_page()
        await page.goto(f"http://{host}:{port}/")
        seen = await page.evaluate(ATTACK, gateway.url)
        for path in ("/v1/jobs", "/docs"):  # a link or a redirect that leads there
            async with page.expect_navigation():
                await page.evaluate("url => { location.href = url }", gateway.url + path)
            assert answers[-1] == ("GET", path, 403)
            await page.goto(f"http://{host}:{port}/")

        # What a page may learn is that something was sent ("opaque"), and that a beacon is on its way.
        assert {name for name, text in seen.items() if text != "refused" and not text.startswith("opaque 0")} <= {
            "beacon",
            "beacon form",
        }
        assert len(seen) >= 20
        assert len(answers) >= 40
        assert {status for _, _, status in answers} == {403}
        assert not coordinator.jobs and not coordinator.graces
        assert (await gateway.post("/v1/jobs", {"jobs": [{"argv": ["true"]}]})).json["jobs"][0]["id"]
        assert len(coordinator.jobs) == 1


async def test_a_name_that_was_made_to_point_here_reaches_nothing(
    browser: "Browser", coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """To the browser the page is of the gateway's own origin then: it may send and read, and the Host tells."""
    async with local_gateway(coordinator, tmp_path) as (gateway, answers):
        page = await browser.new_page()
        origin = f"http://{FOREIGN}:{gateway.url.rpartition(':')[2]}"
        shown = await page.goto(origin + "/docs")
        assert shown is not None and shown.status == 421
        # The page was loaded from elsewhere, before its name was made to point here.
        await page.route(origin + "/", lambda route: route.fulfill(body="<body>", content_type="text/html"))
        await page.goto(origin + "/")
        answers.clear()
        seen = await page.evaluate(ATTACK, origin)
        assert "basic 421" in seen["fetch cors application/json"]  # it may read all, and there is nothing
        assert len(answers) >= 30
        assert {status for _, _, status in answers} == {421}
        assert not coordinator.jobs


async def test_our_own_pages_are_shown_as_they_are_meant(
    browser: "Browser", coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Under their own policy, with their style, without an error and without a request to anybody else."""
    async with local_gateway(coordinator, tmp_path) as (gateway, _):
        page = await browser.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        shown = await page.goto(gateway.url + "/docs")
        assert shown is not None and shown.status == 200
        assert "default-src 'none'" in shown.headers["content-security-policy"]
        assert await page.locator("h1").count() == 1
        assert "/v1/jobs" in await page.inner_text("body")
        rules = await page.evaluate("[...document.styleSheets].map(sheet => sheet.cssRules.length)")
        assert rules and min(rules) > 0
        await page.screenshot(path=tmp_path / "docs.png")
        link = page.locator("a[href$='openapi.json']").first
        await link.click()
        await page.wait_for_url(gateway.url + "/openapi.json")
        assert '"openapi"' in await page.inner_text("body")
        assert said == []
        assert all(url.startswith(gateway.url) for url in asked)
