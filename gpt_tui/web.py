"""The completion page as a web page: a small server before the same engine process that the app uses. No torch.

One page, one route: POST /complete streams the wire's own events, a JSON line each. Requests wait for each other. The
server listens on this machine only, unless told otherwise, and answers no other site's page.
"""

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from gpt_model.errors import ConfigError, GenerationError, GptError
from gpt_tui import wire
from gpt_tui.engine_client import EngineClient, EngineDied
from gpt_tui.settings import Settings, check_setting
from samplers import ChainError, named_chain, stage_names

LARGEST_PROMPT = 1 << 20
"""Bytes of a request."""


class WebPage:
    """The server's side of the page: one engine, one completion at a time."""

    def __init__(self, settings: Settings, log: Path, command: list[str] | None = None) -> None:
        self._settings = settings
        self._events: asyncio.Queue[wire.Event | EngineDied] = asyncio.Queue()
        self._engine = EngineClient(self._events.put_nowait, log, command)
        self._turn = asyncio.Lock()
        self._request = 0
        self._loaded: wire.CheckpointLoaded | None = None

    def application(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(client_max_size=LARGEST_PROMPT, middlewares=[_same_site])
        application.add_routes([
            web.get("/", self.show_page),
            web.get("/defaults", self.show_defaults),
            web.post("/complete", self.complete),
        ])  # fmt: skip
        application.on_startup.append(self._start)
        application.on_cleanup.append(self._stop)
        return application

    async def show_page(self, request: web.Request) -> web.Response:
        """Answer with the page."""
        page = Path(__file__).with_name("web_page.html").read_text(encoding="utf-8")
        return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": _POLICY})

    async def show_defaults(self, request: web.Request) -> web.Response:
        """Answer with what the fields start from."""
        settings = self._settings
        return web.json_response({
            "chain": settings.chain,
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed,
            "stages": stage_names(),
        })  # fmt: skip

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Stream a completion: PromptRead, TokenArrived …, GenerationFinished or EngineFailed."""
        try:
            ask = _read_request(await request.json(), self._settings)
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": f"Not a request: {error}."}, status=400)
        except (GptError, ChainError) as error:
            return web.json_response({"error": str(error)}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        async with self._turn:
            try:
                async for event in self._answer(ask):
                    await response.write(wire.to_line(event).encode() + b"\n")
            except ConnectionResetError:  # the page was closed
                await self._let_it_end()
                raise
        await response.write_eof()
        return response

    async def _answer(self, ask: wire.Generate) -> AsyncIterator[wire.Event]:
        if not self._engine.alive:
            await self._start()
        self._request += 1
        self._engine.send(dataclasses.replace(ask, request=self._request))
        while True:
            event = await self._events.get()
            if isinstance(event, EngineDied):
                event = wire.EngineFailed(f"{event.message} The next request starts it again.")
            if isinstance(event, wire.CheckpointLoaded | wire.EngineStarted | wire.EngineTold):
                continue
            request = getattr(event, "request", None)
            if request in (self._request, None):
                yield event
            if isinstance(event, wire.GenerationFinished | wire.EngineFailed):
                return

    async def _let_it_end(self) -> None:
        self._engine.send(wire.Cancel())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while not isinstance(
                    await self._events.get(), wire.GenerationFinished | wire.EngineFailed | EngineDied
                ):
                    pass

    async def _start(self, application: Any = None) -> None:
        await self._engine.start()
        settings = self._settings
        self._engine.send(wire.Load(settings.checkpoint, settings.device, settings.threads, dtype=settings.dtype))

    async def _stop(self, application: Any = None) -> None:
        await self._engine.stop()


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


@web.middleware
async def _same_site(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refuse what another site's page sends: a browser names that site in the Origin."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise web.HTTPForbidden(text="This page answers only itself.")
    response: web.StreamResponse = await handler(request)
    return response


def _read_request(body: dict[str, Any], settings: Settings) -> wire.Generate:
    prompt = body.get("prompt", "")
    if not isinstance(prompt, str):
        raise GenerationError("prompt must be a text.")
    chain = str(named_chain(str(body.get("chain", settings.chain)), settings.presets))
    tokens = check_setting("max_new_tokens", body.get("max_new_tokens", settings.max_new_tokens))
    if tokens > 100_000:
        raise ConfigError(f"max_new_tokens = {tokens}: must be at most 100000 here.")
    seed = check_setting("seed", body.get("seed"))
    seed = settings.seed if seed is None else seed
    decoder = check_setting("decoder", body.get("decoder", settings.decoder))
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    return wire.Generate(0, prompt, (), chain, seed, tokens, decoder=decoder)
