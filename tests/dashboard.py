"""A visitor of the dashboard's pages, who reads them as a browser without scripts would."""

import html
import re
from typing import Any

import httpx

from gateway.core.clock import SystemClock

__all__ = ["LeapingClock", "Visitor"]

_CSRF = re.compile(r'name="csrf" value="([^"]+)"')


class LeapingClock(SystemClock):
    """The machine's, on which a test lets hours pass at once."""

    def __init__(self) -> None:
        self._leapt_s = 0.0

    def pass_(self, seconds: float) -> None:
        self._leapt_s += seconds

    def now(self) -> int:
        return super().now() + round(self._leapt_s * 1000)

    def monotonic(self) -> float:
        return super().monotonic() + self._leapt_s


class Visitor:
    """Follows links and sends forms, with the cookies of a browser."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None, **headers: str) -> None:
        """``transport``: what its requests go through, instead of a socket."""
        self.http = httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20, transport=transport)

    async def __aenter__(self) -> "Visitor":
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> None:
        await self.http.__aexit__(*args)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.http.get(path, **more)

    async def page(self, path: str) -> str:
        """Return what a page shows, without its markup."""
        answer = await self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return self.text(answer)

    @classmethod
    def text(cls, answer: httpx.Response) -> str:
        return cls.text_of(answer.text)

    @staticmethod
    def text_of(markup: str) -> str:
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())

    async def csrf(self, path: str) -> str:
        """Return what the forms of a page send to prove that they are its."""
        found = _CSRF.search((await self.get(path)).text)
        assert found is not None, f"{path} has no form"
        return found[1]

    async def post(self, path: str, on: str, **fields: str) -> httpx.Response:
        """Send a form that stands on a page."""
        return await self.http.post(path, data={"csrf": await self.csrf(on), **fields})

    async def sign_in(self, token: str, **fields: str) -> httpx.Response:
        return await self.post("/dashboard/sign-in", "/dashboard/sign-in", token=token, **fields)
