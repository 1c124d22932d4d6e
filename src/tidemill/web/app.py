"""`create_app`: the site put together."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tidemill.bench import usable
from tidemill.bench.environment import Environment
from tidemill.bench.store import Store
from tidemill.feed.library import Library
from tidemill.web import measuring, reading, refusals, running
from tidemill.web.guard import Csrf, Guard
from tidemill.web.language import COOKIE, LANGUAGES, LanguagePrefix
from tidemill.web.live import LiveRuns
from tidemill.web.site import Site, site_of, static_url

if TYPE_CHECKING:
    from tidemill.bench.queue import RunQueue

_YEAR_S = 365 * 24 * 3600


def create_app(
    store: Store,
    library: Library,
    queue: RunQueue | None,
    *,
    read_only: bool = False,
    auth: str | None = None,
    hosts: Collection[str] = (),
) -> FastAPI:
    """The site as an ASGI application.

    Its lifespan adopts and supervises runs through ``queue``, and leaves them running at its end.

    Args:
        store: Results and runs; migrated.
        library: Papers; migrated.
        queue: Starts and cancels runs; None for an instance that shows only.
        read_only: Show Run as a command instead of a button.
        auth: A token that every request must carry (HTTP Basic password, or Bearer).
        hosts: Names the site answers to besides localhost; "*" for any. `serve` adds "*" when it
            listens on other than a loopback address.
    """
    admitted = set(hosts)
    app = FastAPI(
        title="tidemill",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
    )
    app.state.hosts = admitted
    app.state.site = Site(
        store=store,
        library=library,
        queue=queue,
        read_only=read_only,
        systems={system.name: system for system in usable()},
        environment=Environment.here(),
        csrf=Csrf(_key()),
        live=LiveRuns(store),
    )
    refusals.install(app)
    _add_small_routes(app)
    for module in (running, measuring, reading):
        app.include_router(module.router)
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"))
    app.add_middleware(refusals.LastResort)
    app.add_middleware(LanguagePrefix)
    app.add_middleware(Guard, auth=auth, hosts=admitted)
    app.add_middleware(GZipMiddleware, minimum_size=500, compresslevel=6)
    return app


class _Static(StaticFiles):
    """Files of ours: their addresses carry a mark of their content; a new font has a new name."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code in (200, 304):
            response.headers["Cache-Control"] = f"public, max-age={_YEAR_S}, immutable"
        return response


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    site: Site = app.state.site
    if site.queue is not None:
        await run_in_threadpool(site.queue.start)
    try:
        yield
    finally:
        site.live.close()
        if site.queue is not None:
            await run_in_threadpool(site.queue.stop)


def _key() -> str:
    """The key of the form tokens, kept in the data folder so that open pages outlive a restart."""
    path = Path(platformdirs.user_data_dir("tidemill")) / "form.key"
    fresh = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w", encoding="ascii") as stream:
                stream.write(fresh)
        return path.read_text(encoding="ascii") or fresh
    except OSError:  # a home that cannot be written: tokens then live as long as this process
        return fresh


def _add_small_routes(app: FastAPI) -> None:
    @app.get("/healthz")
    def healthz(request: Request) -> Response:
        site_of(request).library.categories()
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    @app.get("/favicon.ico")
    def favicon() -> Response:
        return RedirectResponse(static_url("mark.svg"), 308)

    @app.get("/robots.txt")
    def robots() -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /language/\n")

    @app.get("/language/{language}")
    def language(language: str, to: str = "/") -> Response:
        if language not in LANGUAGES:
            raise refusals.Refused(404, "not_found")
        # Only a path of this site: "//other" and "/\other" would lead away.
        target = to if to.startswith(f"/{language}/") else f"/{language}/"
        answer = RedirectResponse(target, 303, {"Cache-Control": "no-store"})
        answer.set_cookie(COOKIE, language, max_age=_YEAR_S, samesite="lax", httponly=True)
        return answer
