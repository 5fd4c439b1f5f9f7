"""Secrets, signing and verifying, by the published vectors and by properties."""

import base64
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import SecretError, VerificationError
from gateway.signature import Secret, Signer, make_secret, parse_secret, parse_secrets, verify

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_KEY = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
VECTORS = [
    (
        KEY,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        OTHER_KEY,
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1649367553,
        b'{"email":"test@example.com","username":"test_user"}',
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
]
_, ID, AT, BODY, SIGNATURE = VECTORS[0]
SECRETS = parse_secrets(KEY)

ids = st.text(st.sampled_from("abcXYZ019_-/:~!"), min_size=1, max_size=255)
timestamps = st.integers(0, 999_999_999_999)
keys = st.binary(min_size=24, max_size=64).map(Secret)
no_deadline = settings(deadline=None)


def headers(signature: str = SIGNATURE, webhook_id: str = ID, timestamp: str = str(AT)) -> dict[str, str]:
    return {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": signature}


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


# Secrets


def test_secret_is_read_with_and_without_its_prefix_and_padding() -> None:
    """All four spellings of one key are the same secret."""
    text = encoded(bytes(range(32)))
    assert text.endswith("=")
    for spelling in (text, text.rstrip("="), "whsec_" + text, "whsec_" + text.rstrip("="), f" whsec_{text}\n"):
        assert parse_secret(spelling) == Secret(bytes(range(32)))


@pytest.mark.parametrize("length", [24, 25, 26, 32, 63, 64])
def test_key_lengths_of_the_standard_are_accepted(length: int) -> None:
    """24 to 64 bytes, each with whatever padding its length needs."""
    assert parse_secret("whsec_" + encoded(b"k" * length)).key == b"k" * length


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("whsec_", "empty"),
        ("whsec_====", "empty"),
        ("whsec_" + encoded(b"k" * 23), "23 bytes"),
        ("whsec_" + encoded(b"k" * 65), "65 bytes"),
        ("whsec_" + encoded(b"k" * 32)[:-3], "base64"),  # one character more than whole bytes
        ("whsec_AAAA=" + encoded(b"k" * 32), "base64"),
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "base64"),
        ("WHSEC_" + encoded(b"k" * 32), "base64"),
        ("whsec_pässword" + encoded(b"k" * 32), "base64"),
    ],
)
def test_unusable_secret_is_refused_by_reason_without_being_repeated(text: str, says: str) -> None:
    """The message names what is wrong and holds no part of the secret."""
    with pytest.raises(SecretError, match=says) as caught:
        parse_secret(text)
    shown = str(caught.value)
    payload = text.split("_")[-1].strip("=")
    assert not any(payload[at : at + 6] in shown for at in range(len(payload) - 5))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_several_secrets_are_read_in_order() -> None:
    """White space of any kind separates them."""
    assert parse_secrets(f" {KEY}\n\t{OTHER_KEY} ") == (parse_secret(KEY), parse_secret(OTHER_KEY))


def test_which_of_several_secrets_is_wrong_is_said() -> None:
    """An operator who rotates secrets learns which one to correct."""
    with pytest.raises(SecretError, match="number 2 of 3: the secret has 3 bytes"):
        parse_secrets(f"{KEY} whsec_AAAA {OTHER_KEY}")


def test_no_secret_at_all_is_an_error() -> None:
    """Blank text never turns into an empty list, which would sign and verify nothing."""
    with pytest.raises(SecretError, match="empty"):
        parse_secrets(" \n")
    with pytest.raises(SecretError):
        Signer([])
    with pytest.raises(SecretError):
        verify([], headers(), BODY, now_s=AT)


def test_secret_is_never_shown() -> None:
    """Neither the text nor the key's bytes are in repr, str or format, nested ones included."""
    secret = parse_secret(KEY)
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret]), repr({"secret": secret})):
        assert KEY[6:] not in shown
        assert repr(secret.key)[2:-1] not in shown
        assert secret.key.hex() not in shown


def test_made_secrets_are_usable_and_differ() -> None:
    """A made secret has the prefix, 32 bytes, and is new each time."""
    made = {make_secret() for _ in range(20)}
    assert len(made) == 20
    assert all(text.startswith("whsec_") and len(parse_secret(text).key) == 32 for text in made)


# Signing


@pytest.mark.parametrize(("key", "webhook_id", "timestamp_s", "body", "signature"), VECTORS)
def test_published_vectors(key: str, webhook_id: str, timestamp_s: int, body: bytes, signature: str) -> None:
    """The signatures that other implementations publish, byte for byte, made and verified."""
    secrets = parse_secrets(key)
    assert Signer(secrets).headers(webhook_id, timestamp_s, body) == headers(signature, webhook_id, str(timestamp_s))
    verified = verify(secrets, headers(signature, webhook_id, str(timestamp_s)), body, now_s=timestamp_s)
    assert (verified.webhook_id, verified.timestamp_s) == (webhook_id, timestamp_s)


def test_every_secret_signs() -> None:
    """The header holds one entry for each secret in order, and a receiver with either one verifies it."""
    old, new = parse_secret(OTHER_KEY), parse_secret(KEY)
    signature = Signer([old, new]).sign(ID, AT, BODY)
    assert signature == f"{Signer([old]).sign(ID, AT, BODY)} {SIGNATURE}"
    for secrets in ([old], [new], [new, old]):
        verify(secrets, headers(signature), BODY, now_s=AT)


# Verifying


@pytest.mark.parametrize("age_s", [-300, -299.9, 0, 299.9, 300])
def test_timestamp_within_the_tolerance_is_accepted(age_s: float) -> None:
    """The limit itself counts as within it, on both sides."""
    verify(SECRETS, headers(), BODY, now_s=AT + age_s)


@pytest.mark.parametrize(("age_s", "says"), [(300.1, "300 s old"), (-300.1, "300 s in the future"), (1e9, "old")])
def test_timestamp_outside_the_tolerance_is_refused(age_s: float, says: str) -> None:
    """An old webhook is a replay, one from the future a wrong clock; the message says by how much."""
    with pytest.raises(VerificationError, match=says):
        verify(SECRETS, headers(), BODY, now_s=AT + age_s)


def test_tolerance_is_the_callers() -> None:
    """A narrower or wider one than five minutes is used as given."""
    verify(SECRETS, headers(), BODY, now_s=AT + 86_400, tolerance_s=86_400)
    with pytest.raises(VerificationError, match="at most 5 s"):
        verify(SECRETS, headers(), BODY, now_s=AT + 6, tolerance_s=5)


def test_header_names_match_in_any_case() -> None:
    """Frameworks spell header names their own way."""
    verify(SECRETS, {name.title(): value for name, value in headers().items()}, BODY, now_s=AT)
    verify(SECRETS, {name.upper(): value for name, value in headers().items()} | {"X-Other": "1"}, BODY, now_s=AT)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_header_is_named(name: str) -> None:
    """The message names the header that is not there."""
    rest = {key: value for key, value in headers().items() if key != name}
    with pytest.raises(VerificationError, match=f"{name} missing"):
        verify(SECRETS, rest, BODY, now_s=AT)


def test_header_given_twice_is_refused() -> None:
    """Two spellings of one header name could each be read by another party."""
    with pytest.raises(VerificationError, match="webhook-id is there more than once"):
        verify(SECRETS, headers() | {"Webhook-Id": "msg_other"}, BODY, now_s=AT)


@pytest.mark.parametrize(
    "signature",
    [
        f"garbage {SIGNATURE}",
        f"{SIGNATURE} garbage",
        f"v1 {SIGNATURE} v1, ,",
        f"v1,%%% v1,A {SIGNATURE}",
        f"v2,AAAA v1a,{'A' * 86}== {SIGNATURE}",
        f"{SIGNATURE} {SIGNATURE}",
        f"  {SIGNATURE}  ",
        f"v1,a,b,c v1,ö\ud800 {SIGNATURE}",
        " ".join(["v1," + "A" * 43 + "="] * 100 + [SIGNATURE]),
    ],
)
def test_good_entry_verifies_whatever_stands_beside_it(signature: str) -> None:
    """Malformed, repeated, foreign and unknown entries do not hide the right one."""
    verify(SECRETS, headers(signature), BODY, now_s=AT)


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        ("", "no v1 entry"),
        ("   ", "no v1 entry"),
        (SIGNATURE.removeprefix("v1,"), "no v1 entry"),
        (SIGNATURE.replace("v1,", "v1a,"), "no v1 entry"),
        (SIGNATURE.replace("v1,", "V1,"), "no v1 entry"),
        ("v1,", "no signature matches"),
        (SIGNATURE.rstrip("="), "no signature matches"),
        (SIGNATURE.replace("=", "F"), "no signature matches"),
        (SIGNATURE + "A", "no signature matches"),
        (VECTORS[1][4], "no signature matches"),
        (f"{SIGNATURE} " * 1000, "longer than 8192"),
    ],
)
def test_list_without_the_right_entry_is_refused(signature: str, says: str) -> None:
    """No near miss passes, and a list without bound is not worked through."""
    with pytest.raises(VerificationError, match=says):
        verify(SECRETS, headers(signature), BODY, now_s=AT)


@pytest.mark.parametrize(
    "timestamp",
    ["", " ", "now", "1614265330.0", "1.6e9", "-1614265330", "+1614265330", "١٦١٤٢٦٥٣٣٠", "1" * 5000, "nan"],
)
def test_timestamp_that_is_not_whole_seconds_is_refused(timestamp: str) -> None:
    """Only ASCII digits: what other parsers would take for a number is not what was signed."""
    with pytest.raises(VerificationError, match="not a whole number of seconds"):
        verify(SECRETS, headers(timestamp=timestamp), BODY, now_s=AT)


@pytest.mark.parametrize("webhook_id", ["", " ", "a b", "a\n", "é", "a" * 256, "\ud800"])
def test_malformed_id_is_refused(webhook_id: str) -> None:
    """Printable ASCII without spaces, of bounded length."""
    with pytest.raises(VerificationError, match="webhook-id is not"):
        verify(SECRETS, headers(webhook_id=webhook_id), BODY, now_s=AT)


def test_signature_of_one_id_does_not_hold_for_another_with_a_full_stop() -> None:
    """Moving the separators in the signed content (a.1.2.x) makes no second valid webhook."""
    signature = Signer(SECRETS).sign("a", 1, b"2.x")
    verify(SECRETS, headers(signature, "a", "1"), b"2.x", now_s=1)
    with pytest.raises(VerificationError, match="full stop"):
        verify(SECRETS, headers(signature, "a.1", "2"), b"x", now_s=1)


# Properties


@no_deadline
@given(st.lists(keys, min_size=1, max_size=4), ids, timestamps, st.binary(max_size=2000), st.data())
def test_what_is_signed_verifies_with_any_of_the_secrets(
    secrets: list[Secret], webhook_id: str, timestamp_s: int, body: bytes, data: st.DataObject
) -> None:
    """Sign then verify holds for any keys, id, time and bytes."""
    signed = Signer(secrets).headers(webhook_id, timestamp_s, body)
    verified = verify([data.draw(st.sampled_from(secrets))], signed, body, now_s=timestamp_s)
    assert (verified.webhook_id, verified.timestamp_s) == (webhook_id, timestamp_s)


@pytest.mark.parametrize("tolerance_s", [math.nan, -1, -math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance_s: float) -> None:
    """No age is more than NaN: it would switch the check against replays off without a word."""
    with pytest.raises(ValueError, match="tolerance_s"):
        verify(SECRETS, headers(), BODY, now_s=AT + 10**9, tolerance_s=tolerance_s)


def test_a_time_that_is_none_verifies_nothing() -> None:
    """A receiver whose clock says NaN cannot tell a replay, so that nothing holds."""
    with pytest.raises(VerificationError, match="webhook-timestamp"):
        verify(SECRETS, headers(), BODY, now_s=math.nan)


@no_deadline
@given(keys, ids, timestamps, st.binary(min_size=1, max_size=200), st.data())
def test_any_flipped_bit_fails(
    secret: Secret, webhook_id: str, timestamp_s: int, body: bytes, data: st.DataObject
) -> None:
    """One bit changed in the id, the timestamp, the body or the key, and the signature no longer holds."""
    signed = Signer([secret]).headers(webhook_id, timestamp_s, body)
    fields = {"webhook-id": webhook_id.encode(), "webhook-timestamp": signed["webhook-timestamp"].encode()}
    fields |= {"body": body, "key": secret.key}
    name = data.draw(st.sampled_from(sorted(fields)))
    bit = data.draw(st.integers(0, len(fields[name]) * 8 - 1))
    flipped = bytearray(fields[name])
    flipped[bit // 8] ^= 1 << bit % 8
    fields[name] = bytes(flipped)
    signed |= {header: fields[header].decode("latin-1") for header in ("webhook-id", "webhook-timestamp")}
    with pytest.raises(VerificationError):
        # No tolerance, so that it is the signature that refuses a changed timestamp.
        verify([Secret(fields["key"])], signed, fields["body"], now_s=timestamp_s, tolerance_s=float("inf"))


@no_deadline
@given(keys, keys)
def test_another_key_never_verifies(one: Secret, other: Secret) -> None:
    """A signature says who signed, as far as keys differ beyond HMAC's own zero padding."""
    signed = Signer([one]).headers(ID, AT, BODY)
    if one.key.rstrip(b"\0") == other.key.rstrip(b"\0"):
        verify([other], signed, BODY, now_s=AT)
    else:
        with pytest.raises(VerificationError):
            verify([other], signed, BODY, now_s=AT)


garbage = st.one_of(
    st.text(),
    st.text(st.sampled_from("v1a, =+/AZ\0é\ud800")),
    st.lists(st.one_of(st.text(max_size=20), st.from_regex(r"v1a?,[A-Za-z0-9+/=]{0,90}")), max_size=30).map(" ".join),
)


@no_deadline
@given(garbage)
def test_garbage_signatures_are_refused_and_nothing_else(signature: str) -> None:
    """Whatever the list holds, the only error is VerificationError."""
    with pytest.raises(VerificationError):
        verify(SECRETS, headers(signature), BODY, now_s=AT)


@no_deadline
@given(
    st.dictionaries(st.sampled_from(["webhook-id", "Webhook-Id", "webhook-timestamp", "webhook-signature"]), garbage)
)
def test_garbage_headers_are_refused_and_nothing_else(received: dict[str, str]) -> None:
    """The same for the other headers, there or not."""
    with pytest.raises(VerificationError) as caught:
        verify(SECRETS, received, BODY, now_s=AT)
    assert re.fullmatch(r"[ -~]+", caught.value.message), "the message repeats what the sender wrote"


@no_deadline
@given(st.text())
def test_any_text_is_a_secret_or_a_secret_error(text: str) -> None:
    """Reading a secret fails in one way only."""
    try:
        secret = parse_secret(text)
    except SecretError:
        return
    assert 24 <= len(secret.key) <= 64
