"""The model's nouns with every member filled in: what a test says nothing of is as of one that was just registered.

Knows no store, whose own are in ``tests.storing``.
"""

from typing import Any

from gateway.core.claims import DueCallback, DueTask
from gateway.core.model import Callback, CallbackState, Format, Task, TaskState

__all__ = ["NOW", "callback", "due_task", "due_webhook", "task"]

NOW = 1_777_460_000_000


def task(**members: Any) -> Task:
    """Return a task as callers of the registry get it; ``created_at`` moves its first poll, too."""
    created_at = members.get("created_at", NOW)
    new: dict[str, Any] = {
        "seq": 1,
        "upstream": "up",
        "task_id": "task-1",
        "state": TaskState.WAITING,
        "polls": 0,
        "created_at": created_at,
        "last_polled_at": None,
        "next_poll_at": created_at,
        "last_error": None,
    }
    return Task(**new | members)


def callback(**members: Any) -> Callback:
    """Return a callback on such a task, or on the one that is given; ``timeout_s`` moves its end, too."""
    timeout_s = members.get("timeout_s", 3600)
    new: dict[str, Any] = {
        "seq": 1,
        "id": "cb_1",
        "client": "ann",
        "url": "https://app.example.com/hooks",
        "receiver": "https://app.example.com",
        "metadata": b"{}",
        "timeout_s": timeout_s,
        "format": Format.STANDARD,
        "state": CallbackState.WAITING,
        "created_at": NOW,
        "expires_at": NOW + timeout_s * 1000,
        "attempts": 0,
        "next_attempt_at": None,
        "delivered_at": None,
        "last_error": None,
    }
    return Callback(**{"task": task()} | new | members)


def due_task(**members: Any) -> DueTask:
    """Return a task to be polled, due since it was created."""
    created_at = members.get("created_at", NOW)
    new: dict[str, Any] = {
        "seq": 1,
        "upstream": "up",
        "watchers": "ann",
        "task_id": "task-1",
        "created_at": created_at,
        "born_at": None,
        "model": None,
        "polls": 0,
        "failures": 0,
        "last_polled_at": None,
        "due_at": created_at,
    }
    return DueTask(**new | members)


def due_webhook(**members: Any) -> DueCallback:
    """Return a webhook to be sent, for the first time."""
    new: dict[str, Any] = {
        "seq": 1,
        "id": "cb_1",
        "task_id": "task-1",
        "client": "ann",
        "url": "https://app.example.com/hooks",
        "receiver": "https://app.example.com",
        "format": Format.STANDARD,
        "body": b"{}",
        "body_bytes": 2,
        "attempts": 0,
        "budget_used": 0,
        "redeliveries": 0,
        "due_at": 0,
        "fence": 0,
        "trace": None,
    }
    return DueCallback(**new | members)
