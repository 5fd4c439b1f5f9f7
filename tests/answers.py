"""What the API answers, for tests of its clients against servers that are no gateway."""

from typing import Any

__all__ = ["CALLBACK"]

CALLBACK: dict[str, Any] = {
    "id": "cb_1",
    "taskId": "t",
    "callbackUrl": "https://x.example.com/",
    "metadata": {},
    "timeoutSeconds": 86400,
    "upstream": "aigptimage",
    "format": "standard",
    "state": "waiting",
    "createdAt": "2026-11-23T10:00:00.000Z",
    "expiresAt": "2026-11-24T10:00:00.000Z",
    "attempts": 0,
    "nextAttemptAt": None,
    "deliveredAt": None,
    "lastError": None,
    "task": {
        "state": "waiting",
        "polls": 1,
        "lastPolledAt": None,
        "nextPollAt": "2026-11-23T10:00:05.000Z",
        "lastError": None,
    },
}
