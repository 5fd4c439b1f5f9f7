"""Answers about tasks, read by their profiles."""

import json
from typing import Any

from gateway.config.profile import Profile
from gateway.config.profilefile import config_dir, read_profiles
from gateway.upstream.answer import PollKind, PollResult, read_answer

__all__ = ["FAMILIES", "NAMES", "SHIPPED", "read", "told"]


SHIPPED = read_profiles([config_dir() / "upstreams"])[0]
FAMILIES = {"kie-4o-image", "kie-flux-kontext", "kie-veo", "kie-mj", "kie-suno"}
NAMES = {"aigptimage", "kie", *FAMILIES, "replicate", "runway", "luma", "openai-video"}


def read(
    profile: Profile, task_id: str, answer: Any, status: int = 200, retry_after_s: float | None = None
) -> PollResult:
    """Read an answer about a task."""
    return read_answer(profile, task_id, status, retry_after_s, json.dumps(answer).encode())


def told(result: PollResult) -> dict[str, Any]:
    """Return what the webhook will tell of an ended task."""
    assert result.kind is PollKind.TERMINAL, result
    assert result.outcome is not None
    data: dict[str, Any] = json.loads(result.outcome.data)
    assert data["state"] == result.outcome.state.value
    return data
