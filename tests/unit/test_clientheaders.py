"""Each client's webhooks carry its own signatures and headers, and nobody else's; what must not be shown is masked."""

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.clientheaders import ClientHeaders, ClientWebhooks
from gateway.model import DueCallback
from gateway.signature import Signer, make_secret, parse_secrets

DEFAULT, SHOP = parse_secrets(make_secret()), parse_secrets(make_secret())


def claim(client: str) -> DueCallback:
    return DueCallback(
        seq=1,
        id="cb_1",
        task_id="task_1",
        client=client,
        url="https://a.example/",
        receiver="a.example:443",
        body=b"{}",
        body_bytes=2,
        attempts=0,
        budget_used=0,
        redeliveries=0,
        due_at=0,
    )


@pytest.fixture
def made() -> ClientHeaders:
    """The default client, and one with a secret and a header of its own."""
    shop = ClientWebhooks(Signer(SHOP), {"authorization": "Bearer s3cret-value"})
    assert "s3cret" not in repr(shop)
    return ClientHeaders(Signer(DEFAULT), {"default": ClientWebhooks(Signer(DEFAULT), {}), "shop": shop})


def test_each_client_has_its_own(made: Any) -> None:
    """Secret and headers are the client's; content type and signature are never missing."""
    shop = made.headers(claim("shop"), b"{}", 1_700_000_000)
    assert shop["authorization"] == "Bearer s3cret-value"
    assert shop["webhook-signature"] == Signer(SHOP).sign("cb_1", 1_700_000_000, b"{}")
    assert shop["content-type"] == "application/json"
    default = made.headers(claim("default"), b"{}", 1_700_000_000)
    assert default["webhook-signature"] == Signer(DEFAULT).sign("cb_1", 1_700_000_000, b"{}")
    assert set(default) == {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}


def test_a_client_that_is_gone_is_served_by_the_default_secret(made: Any) -> None:
    """Its webhooks are still owed; the log says so once for each such client, with no secret."""
    structlog.reset_defaults()
    with capture_logs() as log:
        for _ in range(3):
            headers = made.headers(claim("gone"), b"{}", 5)
            assert headers["webhook-signature"] == Signer(DEFAULT).sign("cb_1", 5, b"{}")
            assert "authorization" not in headers
        made.headers(claim("other"), b"{}", 5)
        made.headers(claim("default"), b"{}", 5)
    assert [(line["event"], line["client"]) for line in log] == [
        ("client.not_configured", "gone"),
        ("client.not_configured", "other"),
    ]


def test_who_adds_headers_of_its_own_is_told(made: Any) -> None:
    """So that nothing is kept of an answer that may repeat them."""
    assert made.adds(claim("shop"))
    assert not made.adds(claim("default"))
    assert not made.adds(claim("gone"))


def test_others_take_the_place_of_these(made: Any) -> None:
    """The next attempt is signed and adorned anew; what once went along is still kept out of excerpts."""
    headers = made
    assert headers.adds(claim("shop"))
    headers.use(Signer(SHOP), {"shop": ClientWebhooks(Signer(DEFAULT), {}), "new": ClientWebhooks(Signer(SHOP), {})})
    found = headers.headers(claim("shop"), b"{}", 1)
    assert found["webhook-signature"] == Signer(DEFAULT).sign(claim("shop").id, 1, b"{}")
    assert found.keys() == {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}
    assert headers.adds(claim("shop"))
    assert not headers.adds(claim("new"))
