"""Other calls of the upstream, forwarded as they came with the gateway's key in place of the client's.

Owns that only what the profile names goes on. Such a call costs a place in the rate limit of queries, as it is not
known to make a task; what its answer says of the key or of a limit is its client's alone to heed. A task that it names
in its path, and may have changed (cancelled, deleted), is asked about at once. Called by the proxy.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from gateway.api import large
from gateway.api.auth import client_of, scope_of
from gateway.api.forwarding import OPERATOR, Forwarding, below, no_answer, passed_on, result_of, sent_on, target
from gateway.api.proxied import Proxied
from gateway.api.schema import TASK_ID, read_any_body
from gateway.api.watching import Watching
from gateway.core.errors import RequestError
from gateway.upstream.api import Answer, NoAnswer
from gateway.upstream.turns import Waiter

_TIMEOUT_S = 75.0
_ALWAYS = ("accept", "content-type", "content-encoding")


class Passing:
    """Passed calls of one upstream."""

    def __init__(self, proxied: Proxied, forwarding: Forwarding, watching: Watching) -> None:
        self._upstream = proxied.upstream
        self._calls = proxied.calls
        self._key = proxied.key
        self._forwarding = forwarding
        self._watching = watching
        self._poller_wake = proxied.poller_wake

    async def forward(self, mount: str, method: str, request: Request) -> tuple[str, Response]:
        """Return how a call was answered, and the answer."""
        # The operator's token only looks.
        client = (scope_of(request) if method == "GET" else client_of(request)) or OPERATOR
        to = target(request, mount)
        body = await read_any_body(request, self._upstream.max_answer)
        waiter = Waiter(client)
        if (refused := await self._forwarding.turn(self._key.queries, waiter)) is not None:
            raise refused
        headers = sent_on(request, (*_ALWAYS, *self._calls.headers))
        content = None if method == "GET" else body
        # In a task of its own: it waits for room for the answer while this one holds that of the request.
        named = [] if method == "GET" else list(map(str, request.path_params.values()))
        work = self._forwarding.begin(self._ask(method, to, headers, content, waiter, named), f"proxy-pass-{method}")
        try:
            with large.waiting(request):
                answer = await result_of(work.result())
            await large.hold(request, len(answer.body))
        finally:
            work.task.cancel()  # its client has gone, where it has not ended
        return "forwarded", passed_on(answer, partial(below, mount, self._upstream.base_url))

    async def _ask(
        self,
        method: str,
        to: str,
        headers: Mapping[str, str],
        content: bytes | None,
        waiter: Waiter,
        named: Sequence[str],
    ) -> Answer | RequestError:
        # The poller's next place may have its time once this one is free.
        with self._key.queries.sending(waiter, self._poller_wake.set) as answered:
            answer = await self._upstream.forward(
                method,
                to,
                headers=headers,
                content=content,
                timeout_s=_TIMEOUT_S,
                whose=waiter.client,
                answered=answered,
            )
        if not isinstance(answer, NoAnswer) or answer.sent:
            for name in filter(TASK_ID.fullmatch, named):  # which of them is a task's nobody has said
                await self._watching.poll_again(name)
        return no_answer(answer) if isinstance(answer, NoAnswer) else self._upstream.without_key(answer)
