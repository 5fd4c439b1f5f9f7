"""The headers that each client's webhooks carry: content type, signatures by its secrets, its own static ones.

Owns that no client's secret or header gets into another's webhooks. Called by the deliverer; built by the wiring.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from gateway.core.masking import Mask
from gateway.core.model import DueCallback
from gateway.signature import Signer

__all__ = ["ClientHeaders", "ClientWebhooks"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClientWebhooks:
    """What is particular to one client's webhooks. Its repr shows none of it."""

    signer: Signer = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names; none that the gateway sets."""


class ClientHeaders:
    """Knows every client's, from the first ``use`` on, which comes before the first attempt."""

    def __init__(self) -> None:
        self._adding: set[str] = set()

    def use(self, default: Signer, clients: Mapping[str, ClientWebhooks], secrets: Iterable[str] = ()) -> None:
        """Take these from now on; ``secrets``: all that these sign with, as they are written.

        ``default`` serves clients whose table is gone: their webhooks are still owed.
        """
        # Receivers know them with what stands before them, and without.
        self._mask = Mask([secret.rpartition("_")[2].rstrip("=") for secret in secrets])
        self._default = ClientWebhooks(default, {})
        self._clients = dict(clients)
        self._adding.update(name for name, client in clients.items() if client.headers)

    def headers(self, claim: DueCallback, body: bytes, timestamp_s: int) -> dict[str, str]:
        """Return the headers of one attempt, names in lower case."""
        client = self._of(claim.client)
        return {
            **client.headers,
            "content-type": "application/json",
            **client.signer.headers(claim.id, timestamp_s, body),
        }

    def without_secrets(self, claim: DueCallback, excerpt: bytes) -> bytes:
        """Return what may be kept of how a receiver's answer began: none of a client's secrets and headers."""
        # Headers of the client's own go along, or did: an answer may repeat them in more spellings than can be masked.
        return b"" if claim.client in self._adding else self._mask.masked_cut(excerpt)

    def _of(self, name: str) -> ClientWebhooks:
        found = self._clients.get(name)
        if found is None:
            # Remembered, so that the log says it once for each client.
            found = self._clients[name] = self._default
            _log.warning("client.not_configured", client=name, signed_with="GATEWAY_WEBHOOK_SECRET")
        return found
