"""Webhooks signed with a key pair: the keys, what is signed, and its check by code that is not ours."""

import base64
import sys

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from gateway import core
from gateway.core.errors import SecretError, VerificationError
from gateway.signature import Signer, make_key_pair, parse_secret, parse_secrets, verify

# The pair, the content and the signature that other senders and receivers of v1a test themselves with.
SIGNING = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
SEED = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
OTHER_PUBLIC = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # of RFC 8032's first test
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRET_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def headers(signature: str = SIGNATURE) -> dict[str, str]:
    return {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": signature}


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize("key", [SIGNING, SEED, SIGNING.rstrip("="), SEED.rstrip("="), f" {SIGNING}\n"])
def test_published_vector(key: str) -> None:
    """Every spelling of the key makes the signature that other implementations publish, byte for byte."""
    assert Signer(parse_secrets(key)).sign(ID, AT, BODY) == SIGNATURE


@pytest.mark.parametrize("key", [SIGNING, SEED, PUBLIC, PUBLIC.rstrip("=")])
def test_either_half_verifies(key: str) -> None:
    """Receivers need the public key only."""
    verified = verify([parse_secret(key)], headers(), BODY, now_s=AT)
    assert (verified.webhook_id, verified.timestamp_s) == (ID, AT)


def test_secrets_and_pairs_sign_together() -> None:
    """While a receiver moves from a shared secret to a key pair, each of the two verifies."""
    signature = Signer(parse_secrets(f"{SECRET} {SIGNING}")).sign(ID, AT, BODY)
    assert signature == f"{SECRET_SIGNATURE} {SIGNATURE}"
    for keys in (SECRET, PUBLIC, f"{PUBLIC} {SECRET}", f"{OTHER_PUBLIC} {SECRET}", f"whsec_{'A' * 32} {PUBLIC}"):
        verify(parse_secrets(keys), headers(signature), BODY, now_s=AT)


@pytest.mark.parametrize(
    ("key", "signature", "says"),
    [
        (PUBLIC, SECRET_SIGNATURE, "no v1a entry"),
        (SECRET, SIGNATURE, "no v1 entry"),
        (f"{SECRET} {PUBLIC}", "v2,AAAA", "no v1 or v1a entry"),
        (PUBLIC, SIGNATURE.replace("v1a,", "v1,"), "no v1a entry"),
        (PUBLIC, "v1a,", "no signature matches"),
        (PUBLIC, "v1a,%%%", "no signature matches"),
        (PUBLIC, "v1a,ö\ud800", "no signature matches"),
        (PUBLIC, SIGNATURE.rstrip("="), "no signature matches"),
        (PUBLIC, SIGNATURE.replace("Ag==", "Ah=="), "no signature matches"),  # the same bytes, spelt another way
        (PUBLIC, SIGNATURE[:-4], "no signature matches"),
        (PUBLIC, "v1a," + encoded(bytes(64)), "no signature matches"),
        (OTHER_PUBLIC, SIGNATURE, "no signature matches"),
    ],
)
def test_list_without_the_right_entry_is_refused(key: str, signature: str, says: str) -> None:
    """No near miss passes, and nothing that a sender writes raises anything else."""
    with pytest.raises(VerificationError, match=says):
        verify(parse_secrets(key), headers(signature), BODY, now_s=AT)


@pytest.mark.parametrize("beside", ["garbage {}", "{} v1a,", "v1a,AAAA {}", "v1,{} {}", "{} {}"])
def test_good_entry_verifies_whatever_stands_beside_it(beside: str) -> None:
    """Malformed and foreign entries do not hide the right one."""
    verify([parse_secret(PUBLIC)], headers(beside.format(SIGNATURE, SIGNATURE)), BODY, now_s=AT)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("whsk_", "empty"),
        ("whpk_==", "empty"),
        ("whsk_" + encoded(b"k" * 31), "31 bytes; it must have 32 or 64"),
        ("whsk_" + encoded(b"k" * 33), "33 bytes"),
        ("whsk_" + encoded(b"k" * 64), "second half"),
        ("whpk_" + encoded(b"k" * 64), "64 bytes; it must have 32"),
        ("whsk_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "whsk_ followed by base64"),
        ("whpk_AAAA!", "whpk_ followed by base64"),
    ],
)
def test_unusable_key_is_refused_by_reason_without_being_repeated(text: str, says: str) -> None:
    """The message names what is wrong and holds no part of the key."""
    with pytest.raises(SecretError, match=says) as caught:
        parse_secret(text)
    payload = text.split("_")[-1].strip("=")
    assert not any(payload[at : at + 6] in str(caught.value) for at in range(len(payload) - 5))


def test_public_key_cannot_sign() -> None:
    """A gateway that is given the receivers' half says so before it serves."""
    with pytest.raises(SecretError, match="whpk_"):
        Signer(parse_secrets(f"{SECRET} {PUBLIC}"))
    with pytest.raises(SecretError, match="whpk_"):
        parse_secret(PUBLIC).entry(b"")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared secrets work as ever; a key of a pair names the command that installs what it needs."""
    monkeypatch.delattr(core, "ed25519", raising=False)
    monkeypatch.setitem(sys.modules, "gateway.core.ed25519", None)
    assert Signer(parse_secrets(SECRET)).sign(ID, AT, BODY) == SECRET_SIGNATURE
    for use in (lambda: parse_secret(SIGNING), lambda: parse_secret(PUBLIC), make_key_pair):
        with pytest.raises(SecretError, match=r"pip install 'cryptography>=45,<51' where"):
            use()


def test_key_is_never_shown() -> None:
    """Neither the text nor the bytes of the signing key are in repr, str or format."""
    key = parse_secret(SIGNING)
    raw = base64.b64decode(SEED.removeprefix("whsk_"))
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert SEED[5:20] not in shown
        assert repr(raw)[2:-1] not in shown
        assert raw.hex() not in shown


def test_made_pairs_are_usable_and_differ() -> None:
    """A made pair belongs together, and is new each time."""
    pairs = [make_key_pair() for _ in range(5)]
    assert len({text for pair in pairs for text in pair}) == 10
    for signing, public in pairs:
        signed = Signer(parse_secrets(signing)).headers(ID, AT, BODY)
        verify(parse_secrets(public), signed, BODY, now_s=AT)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=500), st.data())
def test_another_implementation_agrees_both_ways(seed: bytes, body: bytes, data: st.DataObject) -> None:
    """What we sign the library verifies by the specification's words, and the reverse; a flipped bit fails in both."""
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    public: Ed25519PublicKey = theirs.public_key()
    content = f"{ID}.{AT}.".encode() + body
    ours = Signer(parse_secrets("whsk_" + encoded(seed))).sign(ID, AT, body)
    public.verify(base64.b64decode(ours.removeprefix("v1a,"), validate=True), content)
    signed = headers("v1a," + encoded(theirs.sign(content)))
    keys = parse_secrets("whpk_" + encoded(public.public_bytes_raw()))
    verify(keys, signed, body, now_s=AT)
    changed = bytearray(body)
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(ours.removeprefix("v1a,")), f"{ID}.{AT}.".encode() + changed)
    with pytest.raises(VerificationError):
        verify(keys, signed, bytes(changed), now_s=AT)
