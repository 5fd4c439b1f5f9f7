"""Our ed25519 signatures against Node's own crypto, both ways: the reference packages do not speak v1a."""

import json
import shutil
import subprocess
from base64 import b64decode, b64encode
from typing import Any

import pytest

from gateway.signature import Signer, make_key_pair, parse_secrets, verify

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")

AT = 1614265330
BODIES = [b"", b"{}", '{"prompt": "Ein Käfer, 猫"}'.encode(), bytes(range(256)) * 40]

# The seed and the public key get the fixed prefixes that RFC 8410 wraps them in.
SCRIPT = """
const { createPrivateKey, createPublicKey, sign, verify } = require("node:crypto");
const cases = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const der = (prefix, raw) => Buffer.concat([Buffer.from(prefix, "hex"), raw]);
console.log(JSON.stringify(cases.map(({ whsk, whpk, content, signature }) => {
  const seed = Buffer.from(whsk.slice(5), "base64").subarray(0, 32);
  const pkcs8 = der("302e020100300506032b657004220420", seed);
  const spki = der("302a300506032b6570032100", Buffer.from(whpk.slice(5), "base64"));
  const signing = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  const key = createPublicKey({ key: spki, format: "der", type: "spki" });
  const data = Buffer.from(content, "base64");
  return {
    verified: verify(null, data, key, Buffer.from(signature, "base64")),
    changed: verify(null, Buffer.concat([data, Buffer.from(" ")]), key, Buffer.from(signature, "base64")),
    signature: sign(null, data, signing).toString("base64"),
  };
})));
"""


def test_node_and_we_agree() -> None:
    """Node verifies what we sign and refuses what was changed; we verify what Node signs."""
    cases: list[dict[str, Any]] = []
    for number in range(20):
        whsk, whpk = make_key_pair()
        body = BODIES[number % len(BODIES)]
        signature = Signer(parse_secrets(whsk)).sign(f"cb_{number}", AT, body).removeprefix("v1a,")
        content = f"cb_{number}.{AT}.".encode() + body
        cases.append({"whsk": whsk, "whpk": whpk, "content": b64encode(content).decode(), "signature": signature})
    done = subprocess.run(
        ["node", "-e", SCRIPT], input=json.dumps(cases), capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    for number, (case, answer) in enumerate(zip(cases, json.loads(done.stdout), strict=True)):
        assert (answer["verified"], answer["changed"]) == (True, False)
        headers = {
            "webhook-id": f"cb_{number}",
            "webhook-timestamp": str(AT),
            "webhook-signature": f"v1a,{answer['signature']}",
        }
        body = b64decode(case["content"])[len(f"cb_{number}.{AT}.") :]
        verify(parse_secrets(case["whpk"]), headers, body, now_s=AT)
