"""Webhooks as forgers write them, for ``signature`` and ``ed25519``.

What must hold: nothing but VerificationError is raised, and SecretError for a secret, whose words hold nothing of it;
whatever is accepted the standardwebhooks library accepts too, as does the plain arithmetic of HMAC; whatever that
accepts is accepted here, but for what the manual and the docstrings refuse on purpose: ids with a full stop, timestamps
that are no whole numbers, other spellings of one signature, and lists without end.
"""

import base64
import hashlib
import hmac
import re
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.core.errors import SecretError, VerificationError
from gateway.signature import Key, Secret, Signer, VerifiedWebhook, parse_secrets, verify
from tests.fuzz.target import Target

__all__ = ["TARGET", "Case", "check"]

_KEYS = [hashlib.sha256(bytes([number])).digest() for number in range(3)]
_SECRETS = ["whsec_" + base64.b64encode(key).decode() for key in _KEYS]
_SEED = hashlib.sha256(b"pair").digest()
_PAIR = "whsk_" + base64.b64encode(_SEED).decode()
_ID = re.compile(r"[!-\-/-~]{1,255}")
_LONGEST_LIST = 8192
_TOLERANCE_S = 300
_SLACK_S = 30  # between this clock's reading and the library's own


@dataclass(frozen=True)
class Case:
    """A webhook: signed by some key, then changed; or a text that is to be a secret."""

    webhook_id: str = "cb_1"
    age_s: int = 0
    timestamp: str = "{}"
    """How the timestamp is written; the braces stand for the seconds."""
    body: bytes = b"{}"
    signed_by: int = 0
    """Which secret signs; 3 is the key pair."""
    known: tuple[int, ...] = (0,)
    """Which the receiver knows."""
    entries: tuple[str, ...] = ("{}",)
    """The signature header's entries; the braces stand for the right one."""
    blank: str = " "
    sent: dict[str, str] = field(default_factory=dict)
    """Headers as they arrive, in the place of those that were signed."""
    sent_body: bytes | None = None
    secret: str | None = None


def check(case: Case) -> None:
    """Verify by the gateway, by the library and by hand."""
    if case.secret is not None:
        _check_secret(case.secret)
        return
    now_s = int(time.time())
    seconds = now_s - case.age_s
    written = case.timestamp.format(seconds)
    signer = Signer(parse_secrets(_PAIR if case.signed_by == 3 else _SECRETS[case.signed_by]))
    right = signer.sign(case.webhook_id, seconds, case.body)
    headers = {
        "webhook-id": case.webhook_id,
        "webhook-timestamp": written,
        "webhook-signature": case.blank.join(entry.replace("{}", right) for entry in case.entries),
    } | case.sent
    body = case.body if case.sent_body is None else case.sent_body
    secrets = [_PAIR if number == 3 else _SECRETS[number] for number in case.known]
    verified = _verified(secrets, headers, body, now_s)
    by_hand = _by_hand(case.known, headers, body, now_s)
    assert (verified is not None) == by_hand, (verified, headers)
    accepted = [secret for secret in secrets if secret != _PAIR and _by_library(secret, headers, body)]
    near_the_edge = abs(abs(case.age_s) - _TOLERANCE_S) <= _SLACK_S
    if verified is not None:
        assert verified.webhook_id == headers["webhook-id"]
        if 3 not in case.known and not near_the_edge and _library_reads(headers, body):
            assert accepted, "the library refuses it"
    elif accepted and not near_the_edge:
        entries = {name.lower(): value for name, value in headers.items()}["webhook-signature"].split()
        other_spelling = not _is_plain(headers) or not all(map(_is_canonical, entries))
        assert other_spelling or _refused_on_purpose(headers), "only the library accepts it"


def _verified(secrets: list[str], headers: dict[str, str], body: bytes, now_s: float) -> VerifiedWebhook | None:
    try:
        return verify(parse_secrets(" ".join(secrets)), headers, body, now_s=now_s, tolerance_s=_TOLERANCE_S)
    except VerificationError:
        return None


def _by_hand(known: tuple[int, ...], headers: dict[str, str], body: bytes, now_s: int) -> bool:
    """Say whether the specification, as strictly as the docstrings read it, accepts it."""
    lowered = [name.lower() for name in headers]
    if len(set(lowered)) != len(lowered):
        return False
    values = {name.lower(): value for name, value in headers.items()}
    if set(values) < {"webhook-id", "webhook-timestamp", "webhook-signature"}:
        return False
    if _refused_on_purpose(headers) or abs(now_s - int(values["webhook-timestamp"])) > _TOLERANCE_S:
        return False
    content = f"{values['webhook-id']}.{values['webhook-timestamp']}.".encode() + body
    entries = values["webhook-signature"].split()
    right = [
        "v1," + base64.b64encode(hmac.digest(_KEYS[number], content, "sha256")).decode()
        for number in known
        if number < 3
    ]
    if 3 in known:
        signature = Ed25519PrivateKey.from_private_bytes(_SEED).sign(content)  # ed25519 has one for each content
        right.append("v1a," + base64.b64encode(signature).decode())
    return any(entry in right for entry in entries)


def _refused_on_purpose(headers: dict[str, str]) -> bool:
    values = {name.lower(): value for name, value in headers.items()}
    signatures = values.get("webhook-signature", "")
    return (
        len(values) != len(headers)
        or _ID.fullmatch(values.get("webhook-id", "")) is None
        or re.fullmatch(r"[0-9]{1,12}", values.get("webhook-timestamp", "")) is None
        or len(signatures) > _LONGEST_LIST
    )


def _is_canonical(entry: str) -> bool:
    """Whether an entry is another version's, or base64 as it is written by everybody."""
    version, _, encoded = entry.partition(",")
    if version not in ("v1", "v1a"):
        return True
    try:
        return base64.b64encode(base64.b64decode(encoded, validate=True)).decode() == encoded
    except ValueError:
        return False


def _is_plain(headers: dict[str, str]) -> bool:
    """Whether the timestamp has no zeros before it: the library signs the number in place of the text."""
    return not {name.lower(): value for name, value in headers.items()}["webhook-timestamp"].startswith("0")


def _library_reads(headers: dict[str, str], body: bytes) -> bool:
    """Whether the library gets as far as comparing: its list has two parts in each entry, its body is text."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    if not _is_plain(headers):
        return False
    entries = {name.lower(): value for name, value in headers.items()}["webhook-signature"].split(" ")
    # It parts them at spaces alone; here any blank will do.
    return all(entry.count(",") == 1 and entry.split() == [entry] and _is_canonical(entry) for entry in entries)


def _by_library(secret: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError, TypeError):  # it raises the other two at odd lists and bodies
        return False
    return True


def _check_secret(text: str) -> None:
    words = ""
    keys: tuple[Key, ...] = ()
    try:
        keys = parse_secrets(text)
    except SecretError as error:
        words = str(error)
    encoded = text.strip().partition("_")[2] or text.strip()
    assert len(encoded) < 12 or encoded not in words, "the secret's text is in the error"
    assert keys or words
    if not keys:
        return
    for part, key in zip(text.split(), keys, strict=True):
        assert part not in repr(key)
        if isinstance(key, Secret):
            assert key.key == Webhook(part)._whsecret, "the library takes another key from it"


_NASTY = [
    "",
    " ",
    ".",
    "cb.1",
    "é",
    "\0",
    "\r\n",
    "v1,",
    "v1a,",
    "v1,AAAA",
    ",",
    "v1,a,b",
    "0",
    "-1",
    "1e9",
    "\u0661",
    "999999999999",
    "9" * 13,
]
_NAMES = ["webhook-id", "webhook-timestamp", "webhook-signature", "Webhook-Id", "WEBHOOK-SIGNATURE"]
_ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=8)
_entries = st.sampled_from(
    [
        "{}",
        "{}",
        "{}",
        "{}=",
        "{}A",
        " {}",
        "{}\t",
        "{},",
        "v1,{}",
        "v1,AAAA",
        "v2,AAAA",
        "v1,",
        "x",
        "",
        "v1,====",
        "v1a,AAAA",
        "V1,x",
        "{}\u00a0{}",
    ]
)
_webhooks = st.builds(
    Case,
    webhook_id=st.one_of(_ids, st.sampled_from(["cb_1", "a" * 255, "a" * 256, "a.1", "1.1"])),
    age_s=st.sampled_from([0, 0, 0, 1, -1, 200, -200, 299, 300, 301, -300, -301, 10**9, -(10**10)]),
    timestamp=st.sampled_from(["{}"] * 6 + ["0{}", "{}.0", " {}", "+{}", "{}\n", "1{}", "{:_}", "{:e}"]),
    body=st.one_of(st.binary(max_size=12), st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace"))),
    signed_by=st.sampled_from([0, 0, 0, 1, 2, 3, 3]),
    known=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple),
    entries=st.one_of(
        st.just(("{}",)), st.lists(_entries, max_size=4).map(tuple), st.just(("v1,AAAA",) * 1200 + ("{}",))
    ),
    blank=st.sampled_from([" ", " ", "  ", "\t", ",", "\u2003"]),
    sent=st.one_of(
        st.just({}),
        st.just({}),
        st.dictionaries(
            st.sampled_from(_NAMES), st.one_of(st.sampled_from(_NASTY), st.text(max_size=5), _ids), max_size=2
        ),
    ),
    sent_body=st.one_of(st.none(), st.none(), st.binary(max_size=3)),
)
_secrets = st.builds(
    "".join,
    st.lists(
        st.one_of(
            st.sampled_from(["whsec_", "whsk_", "whpk_", "=", "==", " ", "\n", "-", "_", *_SECRETS, _PAIR]),
            st.binary(min_size=22, max_size=66).map(lambda raw: base64.b64encode(raw).decode()),
            st.text(max_size=4),
        ),
        max_size=4,
    ),
).map(lambda text: Case(secret=text))
TARGET = Target("signature", st.one_of(_webhooks, _webhooks, _secrets), check)
