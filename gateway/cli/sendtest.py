"""``gateway send-test``: signed samples to a receiver, and badly signed ones, sent by the gateway's own sender.

Owns what is tried and what is said of it. No gateway need run: nothing is registered, and nothing is sent again.
Called by ``gateway.cli.commands``.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from gateway.cli.samples import sample
from gateway.cli.tables import duration
from gateway.config.receivers import table_of
from gateway.config.settings import DEFAULT_CLIENT, ClientSettings, Settings
from gateway.core.clock import SystemClock
from gateway.core.errors import AddressNotAllowed, GatewayError
from gateway.core.model import AttemptResult, Format
from gateway.core.terminal import printable
from gateway.net.guard import Netguard, parse_allow
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.signature import SIGNATURE_HEADER, Key, Signer, make_secret, parse_secrets
from gateway.webhook.headers import RECORD_SIGNATURE_HEADER, ClientHeaders, ClientWebhooks
from gateway.webhook.receivers import Receivers
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import Sender, SendResult

_OLD_S = 3600
_CONNECTIONS = 4
_WIDTH = 17
_BAD = {
    "wrong signature": "anybody can send it what looks like a webhook: compare the signature with your own",
    "no signature": "anybody can send it what looks like a webhook: refuse what is not signed",
    "an hour old": "whoever has seen a webhook can send it again: refuse timestamps that are minutes off",
}
"""What a receiver should refuse, and what it means where it does not."""


class Tried(NamedTuple):
    """One POST, and what it came to."""

    name: str
    webhook_id: str
    sent: SendResult
    verdict: str
    good: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as the command's JSON has it."""
        sent = self.sent
        return {
            "name": self.name,
            "webhookId": self.webhook_id,
            "statusCode": sent.status_code,
            "durationMs": sent.duration_ms,
            "error": sent.error,
            "excerpt": sent.excerpt.decode("utf-8", "replace"),
            "verdict": self.verdict,
            "good": self.good,
        }

    def as_text(self) -> str:
        """Return it as one printable line."""
        status = "no answer" if self.sent.status_code is None else str(self.sent.status_code)
        mark = "✓" if self.good else "✗"
        text = f"{mark} {self.name:<{_WIDTH}}{status} in {self.sent.duration_ms} ms: {self.verdict}"
        return printable(text)


def run(
    settings: Settings, url: str, secrets: Sequence[Key], client: ClientSettings | None, kinds: Sequence[str], fmt: str
) -> list[Tried]:
    """Send a sample of each kind to a URL, then what it should refuse; return what became of each.

    ``client``: whose headers; ``secrets`` sign. Raises GatewayError for a URL that could not be
    registered.
    """
    return asyncio.run(_run(settings, url, secrets, client, kinds, Format(fmt)))


async def _run(
    settings: Settings,
    url: str,
    secrets: Sequence[Key],
    client: ClientSettings | None,
    kinds: Sequence[str],
    fmt: Format,
) -> list[Tried]:
    guard, resolver, clock = Netguard(parse_allow(",".join(settings.callback_allow))), Resolver(), SystemClock()
    transport = PooledTransport(guard=guard, resolve=resolver.resolve, limit=_CONNECTIONS)
    receivers = Receivers(guard, resolver.resolve, _CONNECTIONS, clock.monotonic)
    sender = Sender(transport, clock, timeout_s=settings.attempt_timeout_s, receivers=receivers)
    try:
        receivers.use(settings.receivers)
        try:
            await receivers.check(url)
        except AddressNotAllowed as exc:
            raise GatewayError(f"This URL is refused when it is registered: {exc.message}") from None
        test = _Test(settings, sender, url, secrets, client, fmt)
        tried = [await test.good(kind) for kind in kinds]
        if any(one.good for one in tried):
            # What refuses everything, or answers nothing, is not known to look at signatures.
            tried += [await test.bad(kinds[0], name) for name in _BAD]
        return tried
    finally:
        await transport.aclose()
        await receivers.aclose()
        await resolver.close()


class _Test:
    def __init__(
        self,
        settings: Settings,
        sender: Sender,
        url: str,
        secrets: Sequence[Key],
        client: ClientSettings | None,
        fmt: Format,
    ) -> None:
        self._sender = sender
        self._clock = SystemClock()
        self._url = url
        self._format = fmt
        self._retry = RetryPolicy(settings.retry_schedule)
        self._profile = settings.upstreams[0].profile
        self._client = DEFAULT_CLIENT if client is None else client.name
        table = table_of(settings.receivers, url)
        own = ({} if one is None else one.headers for one in (client, table))
        self._own: Mapping[str, str] = {name: value for headers in own for name, value in headers.items()}
        self._right = self._headers_by(Signer(secrets), settings.record_hmac_key)
        other = make_secret()
        self._wrong = self._headers_by(Signer(parse_secrets(other)), settings.record_hmac_key and other)

    def _headers_by(self, signer: Signer, record_key: str | None) -> ClientHeaders:
        headers = ClientHeaders()
        headers.use(signer, {self._client: ClientWebhooks(signer, self._own)}, (), record_key)
        return headers

    async def good(self, kind: str) -> Tried:
        """Send a sample as the gateway sends every webhook."""
        made = sample(kind, self._format, self._url, self._client, self._profile, self._clock.now())
        headers = self._right.headers(made.claim, made.body, self._clock.now() // 1000)
        sent = await self._sender.send(self._url, headers, made.body)
        decision = self._retry.decide(
            1,
            delivered=sent.reason is None,
            status_code=sent.status_code,
            retry_after_s=sent.retry_after_s,
            rng=random.Random(0),  # noqa: S311 - jitter, of an attempt that is not made
            counts=sent.counts,
        )
        if decision.result is AttemptResult.DELIVERED:
            verdict = "it would be delivered"
        elif decision.delay_s is None:
            verdict = f"it would be dead. {sent.error}"
        else:
            verdict = f"it would be tried again in {duration(decision.delay_s)}. {sent.error}"
        return Tried(f"task.{kind}", made.claim.id, sent, verdict, sent.reason is None)

    async def bad(self, kind: str, name: str) -> Tried:
        """Send what a receiver should refuse."""
        made = sample(kind, self._format, self._url, self._client, self._profile, self._clock.now())
        at_s = self._clock.now() // 1000 - (_OLD_S if name == "an hour old" else 0)
        headers = (self._wrong if name == "wrong signature" else self._right).headers(made.claim, made.body, at_s)
        if name == "no signature":
            headers = {
                key: value for key, value in headers.items() if key not in (SIGNATURE_HEADER, RECORD_SIGNATURE_HEADER)
            }
        sent = await self._sender.send(self._url, headers, made.body)
        taken = sent.reason is None
        verdict = f"it was TAKEN, so {_BAD[name]}" if taken else "it was refused, as it should be"
        return Tried(name, made.claim.id, sent, verdict, not taken)


def show(tried: Sequence[Tried], url: str, signed_with: str) -> None:
    """Print what became of each."""
    click.echo(printable(f"{url}: samples signed with {signed_with}"))
    for one in tried:
        click.echo(one.as_text())
        if one.sent.excerpt and not one.good:
            click.echo(f"    its answer: {printable(one.sent.excerpt[:200].decode('utf-8', 'replace'))}")
    if not any(one.name in _BAD for one in tried):
        click.echo("Whether it refuses bad signatures was not tried, as it took none of the good ones.")
