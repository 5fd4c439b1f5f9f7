"""Each client's webhooks carry its own signatures and headers, and nobody else's; what must not be shown is masked."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.claims import DueCallback
from gateway.core.model import Format
from gateway.signature import Signer, make_secret, parse_secrets
from gateway.webhook.headers import ClientHeaders, ClientWebhooks
from tests.nouns import due_webhook

DEFAULT, SHOP = parse_secrets(make_secret()), parse_secrets(make_secret())


def claim(client: str, shape: Format = Format.STANDARD, trace: str | None = None) -> DueCallback:
    return due_webhook(task_id="task_1", client=client, format=shape, trace=trace)


@pytest.fixture
def made() -> ClientHeaders:
    """The default client, and one with a secret and a header of its own."""
    shop = ClientWebhooks(Signer(SHOP), {"authorization": "Bearer s3cret-value"})
    assert "s3cret" not in repr(shop)
    made = ClientHeaders()
    made.use(Signer(DEFAULT), {"default": ClientWebhooks(Signer(DEFAULT), {}), "shop": shop})
    return made


def test_each_client_has_its_own(made: Any) -> None:
    """Secret and headers are the client's; content type and signature are never missing."""
    shop = made.headers(claim("shop"), b"{}", 1_700_000_000)
    assert shop["authorization"] == "Bearer s3cret-value"
    assert shop["webhook-signature"] == Signer(SHOP).sign("cb_1", 1_700_000_000, b"{}")
    assert shop["content-type"] == "application/json"
    default = made.headers(claim("default"), b"{}", 1_700_000_000)
    assert default["webhook-signature"] == Signer(DEFAULT).sign("cb_1", 1_700_000_000, b"{}")
    assert set(default) == {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}


def test_a_registrations_trace_goes_along() -> None:
    """It is the callback's own: a client's header of that name stands for one that has none."""
    made = ClientHeaders()
    own = {"shop": ClientWebhooks(Signer(SHOP), {"traceparent": "the client's"})}
    made.use(Signer(DEFAULT), own)
    traced = made.headers(claim("shop", trace="00-1-2-01 rojo=1"), b"{}", 1_700_000_000)
    assert (traced["traceparent"], traced["tracestate"]) == ("00-1-2-01", "rojo=1")
    untraced = made.headers(claim("shop"), b"{}", 1_700_000_000)
    assert (untraced["traceparent"], "tracestate" in untraced) == ("the client's", False)


def test_a_client_that_is_gone_is_served_by_the_default_secret(made: Any) -> None:
    """Its webhooks are still owed; the log says so once for each such client, with no secret."""
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


def test_nothing_is_kept_of_an_answer_that_may_repeat_a_clients_headers(made: Any) -> None:
    """Who adds none may read what its receiver answered."""
    assert made.without_secrets(claim("shop"), b"no") == b""
    assert made.without_secrets(claim("default"), b"no") == b"no"
    assert made.without_secrets(claim("gone"), b"no") == b"no"


@pytest.mark.parametrize("secret", [make_secret(), "whsec_" + "QUJD" * 8, "QUJD" * 8], ids=["made", "chosen", "bare"])
def test_a_webhook_secret_is_not_kept_where_a_receiver_tells_it(secret: str) -> None:
    """It knows the secret: with what stands before it or without, and up to where the answer was cut."""
    headers = ClientHeaders()
    headers.use(Signer(parse_secrets(secret)), {}, [make_secret(), secret])
    bare = secret.removeprefix("whsec_").rstrip("=")
    for told in (secret, bare, bare[:-1]):
        kept = headers.without_secrets(claim("default"), f"the secret is {told}".encode())
        assert kept.startswith(b"the secret is ")
        assert bare[:6].encode() not in kept


def test_others_take_the_place_of_these(made: Any) -> None:
    """The next attempt is signed and adorned anew; what once went along is still kept out of excerpts."""
    headers = made
    headers.use(Signer(SHOP), {"shop": ClientWebhooks(Signer(DEFAULT), {}), "new": ClientWebhooks(Signer(SHOP), {})})
    found = headers.headers(claim("shop"), b"{}", 1)
    assert found["webhook-signature"] == Signer(DEFAULT).sign(claim("shop").id, 1, b"{}")
    assert found.keys() == {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}
    assert headers.without_secrets(claim("shop"), b"no") == b""
    assert headers.without_secrets(claim("new"), b"no") == b"no"


def test_a_record_is_signed_as_the_upstream_signs_its_own() -> None:
    """HMAC-SHA256 over the task's id and the time of the attempt, beside what every webhook carries."""
    headers = ClientHeaders()
    shop = ClientWebhooks(Signer(SHOP), {"x-webhook-signature": "mine", "x-own": "1"})
    headers.use(Signer(DEFAULT), {"shop": shop}, record_key="k3y")
    for client in ("shop", "default"):
        found = headers.headers(claim(client, Format.RECORD), b"{}", 1_700_000_000)
        # printf task_1.1700000000 | openssl dgst -sha256 -hmac k3y -binary | base64
        assert found["x-webhook-signature"] == "78qsNQIQAH+/FisA/xiXd00DXh1wAR5f8z3kg7nJn68="
        assert found["x-webhook-timestamp"] == found["webhook-timestamp"] == "1700000000"
        assert found["webhook-signature"].startswith("v1,")
    standard = headers.headers(claim("shop"), b"{}", 1_700_000_000)
    assert (standard["x-webhook-signature"], standard["x-own"]) == ("mine", "1")
    assert "x-webhook-timestamp" not in standard
    headers.use(Signer(DEFAULT), {"shop": shop})
    without = headers.headers(claim("default", Format.RECORD), b"{}", 1)
    assert without.keys() == {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}


def test_the_key_of_records_is_not_kept_where_a_receiver_tells_it() -> None:
    """Whole, whatever is in it."""
    headers = ClientHeaders()
    headers.use(Signer(DEFAULT), {}, record_key="my_key_of_records")
    kept = headers.without_secrets(claim("default", Format.RECORD), b"the key is my_key_of_records!")
    assert kept.startswith(b"the key is ")
    assert b"key_of" not in kept
