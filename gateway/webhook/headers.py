"""The headers of a webhook: content type, signatures, its client's and its receiver's own, a trace's; of an event, too.

Owns that no client's secret or header gets into another's webhooks, and the signature that receivers of the API
family's own callbacks know, for those of format record; and that no secret of theirs stands in what an answer is
kept of. Built by the wiring.
"""

import hmac
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from gateway.core.claims import DueCallback
from gateway.core.masking import Mask
from gateway.core.model import Format
from gateway.core.tracecontext import headers_of
from gateway.signature import Signer
from gateway.webhook.receivers import Receivers

RECORD_TIMESTAMP_HEADER = "x-webhook-timestamp"
RECORD_SIGNATURE_HEADER = "x-webhook-signature"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClientWebhooks:
    """What is particular to one client's webhooks. Its repr shows none of it."""

    signer: Signer = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names; none that each webhook has from the gateway."""


class ClientHeaders:
    """Knows every client's, from the first ``use`` on, which comes before the first attempt."""

    def __init__(self, receivers: Receivers | None = None) -> None:
        """``receivers``: what is particular to some, which comes before what is to a client."""
        self._receivers = receivers
        self._adding: set[str] = set()

    def use(
        self,
        default: Signer,
        clients: Mapping[str, ClientWebhooks],
        secrets: Iterable[str] = (),
        record_key: str | None = None,
    ) -> None:
        """Take these from now on; ``secrets``: all that these sign with, as they are written.

        ``default`` serves clients whose table is gone: their webhooks are still owed. ``record_key`` signs those of
        format record as well, whosever they are.
        """
        # Receivers know them with what stands before them, and without.
        texts = [secret.rpartition("_")[2].rstrip("=") for secret in secrets]
        self._mask = Mask(texts if record_key is None else [*texts, record_key])
        self._record_key = None if record_key is None else record_key.encode()
        self._default = ClientWebhooks(default, {})
        self._clients = dict(clients)
        self._adding.update(name for name, client in clients.items() if client.headers)

    def headers(self, claim: DueCallback, body: bytes, timestamp_s: int) -> dict[str, str]:
        """Return the headers of one attempt, names in lower case."""
        headers, signer = self._of_receiver(claim.url, self._of(claim.client))
        return {
            **headers,
            **headers_of(claim.trace),
            "content-type": "application/json",
            **signer.headers(claim.id, timestamp_s, body),
            **(self._record_headers(claim, timestamp_s) if claim.format is Format.RECORD else {}),
        }

    def of_event(self, event_id: str, body: bytes, timestamp_s: int, url: str) -> dict[str, str]:
        """Return the headers of one attempt at an operator event: signed as what no client has a secret for."""
        headers, signer = self._of_receiver(url, self._default)
        return {**headers, "content-type": "application/json", **signer.headers(event_id, timestamp_s, body)}

    def _of_receiver(self, url: str, client: ClientWebhooks) -> tuple[Mapping[str, str], Signer]:
        receiver = None if self._receivers is None else self._receivers.of(url)
        if receiver is None:
            return client.headers, client.signer
        return {**client.headers, **receiver.headers}, receiver.signer or client.signer

    def _record_headers(self, claim: DueCallback, timestamp_s: int) -> dict[str, str]:
        # As the family documents it, and its receivers check it. The body is not signed.
        if self._record_key is None:
            return {}
        signed = hmac.digest(self._record_key, f"{claim.task_id}.{timestamp_s}".encode(), "sha256")
        return {RECORD_TIMESTAMP_HEADER: str(timestamp_s), RECORD_SIGNATURE_HEADER: b64encode(signed).decode("ascii")}

    def without_secrets(self, claim: DueCallback, excerpt: bytes) -> bytes:
        """Return what may be kept of how a receiver's answer began: none of a client's secrets and headers."""
        # Headers of the client's own go along, or did: an answer may repeat them in more spellings than can be masked.
        receiver = None if self._receivers is None else self._receivers.of(claim.url)
        adds = claim.client in self._adding or (receiver is not None and receiver.headers)
        return b"" if adds else self._mask.masked_cut(excerpt)

    def _of(self, name: str) -> ClientWebhooks:
        found = self._clients.get(name)
        if found is None:
            # Remembered, so that the log says it once for each client.
            found = self._clients[name] = self._default
            _log.warning("client.not_configured", client=name, signed_with="GATEWAY_WEBHOOK_SECRET")
        return found
