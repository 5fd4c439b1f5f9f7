"""Our signatures against the standardwebhooks package from PyPI, both ways.

The package reads the real clock, so these tests sign for the present second.
"""

import time
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.core.errors import VerificationError
from gateway.signature import Signer, make_secret, parse_secret, parse_secrets, verify

ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="."), min_size=1, max_size=60)
# The package signs text; any UTF-8 body will do.
bodies = st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace"))
secrets = st.tuples(
    st.sampled_from(["whsec_", ""]), st.binary(min_size=24, max_size=64), st.sampled_from(["", "="])
).map(lambda parts: parts[0] + b64encode(parts[1]).decode().rstrip(parts[2] or None))
no_deadline = settings(deadline=None)


@no_deadline
@given(secrets, ids, bodies)
def test_what_we_sign_the_reference_verifies(secret: str, webhook_id: str, body: bytes) -> None:
    """Any secret in any spelling, any id and body."""
    signed = Signer([parse_secret(secret)]).headers(webhook_id, int(time.time()), body)
    Webhook(secret).verify(body, signed, json_parse=False)


@no_deadline
@given(secrets, ids, bodies)
def test_what_the_reference_signs_we_verify(secret: str, webhook_id: str, body: bytes) -> None:
    """The same the other way round."""
    now = datetime.now(UTC)
    signed = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, now, body.decode()),
    }
    assert verify([parse_secret(secret)], signed, body, now_s=time.time()).webhook_id == webhook_id


def test_reference_with_either_secret_verifies_what_two_secrets_signed() -> None:
    """While secrets rotate, receivers with the old and with the new one both go on."""
    old, new = make_secret(), make_secret()
    signed = Signer(parse_secrets(f"{old} {new}")).headers("cb_1", int(time.time()), b"{}")
    for secret in (old, new):
        assert Webhook(secret).verify(b"{}", signed) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "cb_2"},
        {"webhook-timestamp": str(int(time.time()) - 1)},
        {"webhook-timestamp": str(int(time.time()) - 400)},
        {"webhook-timestamp": str(int(time.time()) + 400)},
        {"webhook-timestamp": "now"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v2,AAAA"},
        {"body": "{ }"},
        {"secret": make_secret()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_both_refuse_what_was_changed(change: dict[str, str]) -> None:
    """Where the reference refuses, so do we."""
    secret = make_secret()
    at = int(time.time()) + 10  # never the second of the changed timestamp
    signed = Signer([parse_secret(secret)]).headers("cb_1", at, b"{}")
    received = signed | {name: value for name, value in change.items() if name in signed}
    body, key = change.get("body", "{}").encode(), change.get("secret", secret)
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(body, received)
    with pytest.raises(VerificationError):
        verify([parse_secret(key)], received, body, now_s=time.time())


def test_list_that_breaks_the_reference_verifies_here() -> None:
    """The reference stops with a bare ValueError at an entry without a comma; ours reads on to the right one."""
    secret = make_secret()
    signed = Signer([parse_secret(secret)]).headers("cb_1", int(time.time()), b"{}")
    signed["webhook-signature"] = "garbage " + signed["webhook-signature"]
    with pytest.raises(ValueError, match="unpack"):
        Webhook(secret).verify(b"{}", signed)
    verify([parse_secret(secret)], signed, b"{}", now_s=time.time())
