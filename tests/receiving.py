"""Signed webhooks at a fixed instant, and who may have signed them.

Called by the tests of the webhook receiver.
"""

import json
from typing import Any

from gateway.signature import Signer, parse_secrets

__all__ = ["AT", "OTHER_SECRETS", "SECRETS", "SUCCEEDED", "FixedClock", "encode", "signed"]

SECRETS = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
OTHER_SECRETS = parse_secrets("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
AT = 1614265330
SUCCEEDED = {
    "type": "task.succeeded",
    "timestamp": "2021-02-25T15:02:10.000Z",
    "data": {
        "callbackId": "cb_1",
        "taskId": "task_1",
        "state": "success",
        "result": {"resultUrls": ["https://cdn.example.com/a.png", "https://cdn.example.com/b.png"]},
        "failCode": None,
        "failMsg": None,
        "metadata": {"orderId": 7},
    },
}


class FixedClock:
    def now(self) -> int:
        return AT * 1000

    def monotonic(self) -> float:
        return 0.0


def encode(event: Any) -> bytes:
    return json.dumps(event).encode()


def signed(body: bytes, webhook_id: str = "cb_1") -> dict[str, str]:
    return Signer(SECRETS).headers(webhook_id, AT, body)
