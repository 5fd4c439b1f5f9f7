"""One POST of one webhook → ``SendResult``: what the receiver answered, or why there is no answer.

Owns an attempt's time limit, and how much of an answer is read; the words for a failure are ``explaining``'s. Does not
sign, retry, choose what follows or open connections. Called by the deliverer and for operator events; the transport
under it carries the callback policy.
"""

import asyncio
from collections.abc import Sequence

import httpx
import msgspec

from gateway import __version__
from gateway.core.clock import Clock
from gateway.core.errors import AddressNotAllowed, OutOfResources, without_frames
from gateway.core.retryafter import parse_retry_after
from gateway.net.errors import ExchangeFailed, cut_short
from gateway.net.transport import PooledTransport
from gateway.webhook.explaining import OF_CALLBACK, Peer, Reason, explained, explained_status, parsed, where
from gateway.webhook.limits import ProxyHealth
from gateway.webhook.receivers import Receivers, ReceiverTable

__all__ = ["OF_PROXY", "Found", "SendResult", "Sender"]

_USER_AGENT = f"webhook-bridging-gateway/{__version__}"

_NOT_COUNTED: frozenset[Reason | None] = frozenset({"proxy_unreachable", "proxy_auth"})
"""Of attempts that never got past our own egress proxy."""
OF_PROXY = _NOT_COUNTED | {"proxy_failed", "proxy_timeout"}
"""Of those that say nothing of the receiver, or nothing for certain."""
_MAX_BODY = 64 * 1024
_EXCERPT = 1024


class SendResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one POST came to; ``reason`` and ``error`` are None when the receiver took it (2xx, read in time)."""

    started_at: int
    duration_ms: int
    status_code: int | None
    """What the receiver answered, also where reading on failed afterwards."""
    reason: Reason | None
    error: str | None
    """A sentence for people: what went wrong and what to do. Never holds the URL's path or query."""
    retry_after_s: float | None
    """How long the receiver asked to be left alone, only with 429 and 503; or how long its proxy is."""
    excerpt: bytes
    """The first 1 KiB of the answer's body."""

    @property
    def counts(self) -> bool:
        """Whether it counts as an attempt: not where it never got past our own egress proxy."""
        return self.reason not in _NOT_COUNTED


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the look-up that begins an attempt came to, and how long it took: that is a part of the attempt's time."""

    addresses: Sequence[str]
    failure: Exception | None
    took_s: float


class Sender:
    """Sends webhooks, each within one overall time limit: names, connecting, TLS, request and answer included."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        clock: Clock,
        *,
        timeout_s: float,
        names: PooledTransport | None = None,
        receivers: Receivers | None = None,
        peer: Peer = OF_CALLBACK,
    ) -> None:
        """``names``: the transport, where it can look names up by themselves. ``receivers``: what some want.

        ``peer``: whom its errors speak of.
        """
        self._transport = transport
        self._names = names
        self._receivers = receivers
        self._peer = peer
        self._clock = clock
        self.timeout_s = timeout_s
        # identity: a small compressed answer may unpack to gigabytes.
        self._headers = {"user-agent": _USER_AGENT, "accept": "*/*", "accept-encoding": "identity"}

    def limit_s(self, url: str) -> float:
        """How long an attempt there may take."""
        return self._way(url)[3]

    def must_look_up(self, url: str) -> bool:
        """Whether ``send`` would have to look the receiver's name up, which may take long: then ``find`` it before."""
        try:
            names = self._way(url)[2]
            return names is not None and names.must_look_up(parsed(url))
        except (AddressNotAllowed, ExchangeFailed, httpx.InvalidURL):
            return False  # nor will it be sent

    async def find(self, url: str) -> Found:
        """Look the receiver's name up, as the first part of an attempt; what fails then is for ``send`` to say."""
        _, _, names, timeout_s = self._way(url)
        assert names is not None  # noqa: S101 - else nothing must be looked up
        started = self._clock.monotonic()
        addresses: Sequence[str] = ()
        failure: Exception | None = None
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await names.find(parsed(url))
        except (AddressNotAllowed, ExchangeFailed, TimeoutError) as exc:
            failure = without_frames(exc)
        return Found(addresses=addresses, failure=failure, took_s=self._clock.monotonic() - started)

    async def send(self, url: str, headers: dict[str, str], body: bytes, found: Found | None = None) -> SendResult:
        """POST ``body`` once and read at most 64 KiB of the answer. Redirects are not followed.

        ``headers`` have lower-case names; user-agent, accept and accept-encoding among them are replaced.
        Whatever the receiver or the network does is a value.

        Raises OutOfResources where this machine has no file or memory left to send with: nothing was sent.
        """
        started_at, started = self._clock.now(), self._clock.monotonic()
        took_s = 0.0 if found is None else found.took_s
        answer = _Arrived()
        failure: tuple[Reason, str] | None = None
        receiver, transport, _, timeout_s = self._way(url)
        try:
            async with asyncio.timeout(timeout_s - took_s):
                await self._exchange(transport, url, headers, body, answer, found)
        except AddressNotAllowed as exc:
            failure = "blocked", exc.message
        except httpx.InvalidURL:
            failure = "blocked", explained("blocked", url, self._peer)
        except TimeoutError as exc:
            failure = self._too_late(exc, url, timeout_s)
        except ExchangeFailed as exc:
            if exc.reason == "resources":
                raise OutOfResources(f"No attempt could be made: {exc.message}") from without_frames(exc)
            failure = exc.reason, explained(exc.reason, url, self._peer, why=exc.why)
        finally:
            if found is not None and found.failure is not None:
                without_frames(found.failure)  # it was raised
        if answer.status_code is not None and not 200 <= answer.status_code < 300:
            # The receiver has spoken, whatever became of the rest of its answer.
            failure = "status", explained_status(answer.status_code, where(url), self._peer)
        retry_after_s: float | None = None
        if answer.retry_after is not None:
            retry_after_s = parse_retry_after(answer.retry_after, self._clock.now())
        if receiver is not None and receiver.proxy is not None:
            left_alone_s = _tell(receiver.proxy, failure and failure[0], self._clock.monotonic())
            retry_after_s = retry_after_s if left_alone_s is None else left_alone_s
        return SendResult(
            started_at=started_at - round(took_s * 1000),
            duration_ms=round((self._clock.monotonic() - started + took_s) * 1000),
            status_code=answer.status_code,
            reason=failure and failure[0],
            error=failure and failure[1],
            retry_after_s=retry_after_s,
            excerpt=answer.excerpt,
        )

    def _too_late(self, late: TimeoutError, url: str, timeout_s: float) -> tuple[Reason, str]:
        """Return whose fault it is that an attempt's time is over: the receiver's, or that of the proxy before it."""
        if (failure := cut_short(late)) is not None:
            return failure.reason, explained(failure.reason, url, self._peer, why=failure.why)
        return "timeout", explained("timeout", url, self._peer, timeout_s=timeout_s)

    def _way(self, url: str) -> tuple[ReceiverTable | None, httpx.AsyncBaseTransport, PooledTransport | None, float]:
        """Return by which table a webhook goes, through what, what looks its receiver's name up, and its time limit."""
        receiver = None if self._receivers is None else self._receivers.of(url)
        if receiver is None:
            return None, self._transport, self._names, self.timeout_s
        timeout_s = self.timeout_s if receiver.timeout_s is None else receiver.timeout_s
        if receiver.transport is None:
            return receiver, self._transport, self._names, timeout_s
        return receiver, receiver.transport, receiver.transport, timeout_s

    async def _exchange(
        self,
        transport: httpx.AsyncBaseTransport,
        url: str,
        headers: dict[str, str],
        body: bytes,
        answer: "_Arrived",
        found: Found | None,
    ) -> None:
        if found is not None and found.failure is not None:
            raise found.failure
        # With ``content=`` httpx would work out the same two headers, at six times the cost of all of this.
        framing = {"host": where(url), "content-length": str(len(body))}
        fields = framing | headers | self._headers
        # Receivers know a webhook by its id: it may be sent twice.
        extensions = {"repeatable": True, "addresses": None if found is None else found.addresses}
        request = httpx.Request(
            "POST",
            parsed(url),
            # As bytes: else httpx would work out for each what it is.
            headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in fields.items()],
            stream=httpx.ByteStream(body),
            extensions=extensions,
        )
        response = await transport.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - the transport's interface
        try:
            answer.status_code = response.status_code
            if response.status_code in (429, 503):
                answer.retry_after = response.headers.get("retry-after")
            size = 0
            # The stream itself: response.aiter_raw() would leave a suspended generator behind when left early.
            async for chunk in stream:
                if size < _EXCERPT:
                    answer.excerpt += chunk[: _EXCERPT - size]
                size += len(chunk)
                if size >= _MAX_BODY:
                    break
        finally:
            await stream.aclose()


class _Arrived:
    """What has arrived so far; outlives a failure to read the rest."""

    status_code: int | None = None
    retry_after: str | None = None
    excerpt: bytes = b""


def _tell(proxy: ProxyHealth, reason: Reason | None, now_s: float) -> float | None:
    """Tell what an attempt says of the proxy that it went through; return for how long that is left alone."""
    silent = reason in ("timeout", "proxy_timeout")
    if reason in _NOT_COUNTED or (silent and proxy.failures):
        left_alone_s = proxy.fails(now_s)
        return left_alone_s if reason in _NOT_COUNTED else None
    if not silent and reason != "blocked":
        proxy.works()
    return None
