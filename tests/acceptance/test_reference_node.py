"""Our signatures against the standardwebhooks package from npm, both ways, in one run of Node.

The package reads the real clock, so these tests sign for the present second.
"""

import json
import shutil
import subprocess
import time
from base64 import b64encode
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.core.errors import VerificationError
from gateway.signature import Signer, make_secret, parse_secret, parse_secrets, verify

NODE_DIR = Path(__file__).parents[1] / "node"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH"),
    pytest.mark.skipif(
        not (NODE_DIR / "node_modules").is_dir(),
        reason="tests/node/node_modules is not there: run `npm ci --prefix tests/node`",
    ),
]

BODIES = [
    b"",
    b"{}",
    b'{"test": 2432232314}',
    '{"prompt": "Ein Käfer, 猫, 🐈‍⬛ and \\u2028"}'.encode(),
    b'{"a": 1.0,\r\n "b": "\t\\u0000"}\n',
    json.dumps(
        {"type": "task.succeeded", "data": {"result": {"resultUrls": ["https://cdn.example.com/a.png"] * 500}}}
    ).encode(),
]


def ask_node(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run Node once over all requests and return its answers in their order."""
    done = subprocess.run(
        ["node", "verify.mjs"],
        cwd=NODE_DIR,
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests)
    return answers


def to_verify(secret: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    return {"do": "verify", "secret": secret, "headers": headers, "body": b64encode(body).decode()}


def random_secret(rng: Random) -> str:
    return "whsec_" + b64encode(rng.randbytes(rng.randint(24, 64))).decode()


def test_node_verifies_what_we_sign_and_refuses_what_was_changed() -> None:
    """Keys of every length, several at once, text of every kind; and no changed part passes there or here."""
    rng = Random(1614265330)
    now_s = int(time.time())
    good, bad = [], []
    for number in range(200):
        secrets = [random_secret(rng) for _ in range(rng.randint(1, 3))]
        secret, body, webhook_id = rng.choice(secrets), rng.choice(BODIES), f"cb_{number}"
        headers = Signer(parse_secrets(" ".join(secrets))).headers(webhook_id, now_s - rng.randint(0, 60), body)
        good.append((secret, headers, body))
        bad += [
            (make_secret(), headers, body),
            (secret, headers | {"webhook-id": webhook_id + "0"}, body),
            (secret, headers | {"webhook-timestamp": str(now_s + 1)}, body),
            (secret, headers | {"webhook-timestamp": str(now_s - 900)}, body),
            (secret, headers | {"webhook-signature": "v1,AAAA v1a,AAAA"}, body),
            (secret, headers, body + b" "),
        ]
    answers = ask_node([to_verify(*case) for case in good + bad])
    assert [answer for answer in answers[: len(good)] if not answer["verified"]] == []
    assert [case for case, answer in zip(bad, answers[len(good) :], strict=True) if answer["verified"]] == []
    for secret, headers, body in bad:
        with pytest.raises(VerificationError):
            verify([parse_secret(secret)], headers, body, now_s=now_s)


def test_we_verify_what_node_signs() -> None:
    """Its signatures are ours, byte for byte, and verify here."""
    rng = Random(1649367553)
    now_s = int(time.time())
    cases = [(random_secret(rng), f"cb_{number}", now_s - number, rng.choice(BODIES)) for number in range(200)]
    answers = ask_node(
        [
            {"do": "sign", "secret": secret, "id": id_, "timestamp_s": at_s, "body": b64encode(body).decode()}
            for secret, id_, at_s, body in cases
        ]
    )
    for (secret, webhook_id, at_s, body), answer in zip(cases, answers, strict=True):
        key = parse_secret(secret)
        assert answer["signature"] == Signer([key]).sign(webhook_id, at_s, body)
        headers = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": answer["signature"],
        }
        assert verify([key], headers, body, now_s=now_s).webhook_id == webhook_id
