"""Someone who asks the site for pages, without a browser."""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

CSRF_INPUT = 'name="csrf" value="'


class Visitor:
    """Someone who asks the site for pages and keeps its cookies."""

    def __init__(self, app: FastAPI, **headers: str) -> None:
        self._runner = asyncio.Runner()
        self._headers = headers
        self._client = self._to(app)

    def _to(self, app: FastAPI) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=self._headers
        )

    def move_to(self, app: FastAPI) -> None:
        """Go on at another server of the same site, with the cookies so far."""
        cookies = self._client.cookies
        self._runner.run(self._client.aclose())
        self._client = self._to(app)
        self._client.cookies = cookies

    def get(
        self, path: str, params: dict[str, str] | None = None, **headers: str | bytes
    ) -> httpx.Response:
        return self._runner.run(self._client.get(path, params=params, headers=headers))

    def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        return self._runner.run(self._client.post(path, data=fields, headers=headers))

    def token(self, path: str) -> str:
        """The form token on a page."""
        return self.get(path).text.partition(CSRF_INPUT)[2].partition('"')[0]

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()
