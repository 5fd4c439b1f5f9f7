"""What the simulated upstream does when nothing goes wrong: plans, tasks, envelopes and rate limits.

Pure: the time and the random numbers are passed in. Called by ``gateway.simulator.app``. The envelopes repeat the
upstream's documentation of its recordInfo endpoint: members, order and types.
"""

import functools
import math
import re
from collections import deque
from collections.abc import MutableMapping, Sequence
from itertools import islice
from random import Random
from typing import Any, Literal, NamedTuple, cast

import msgspec

from gateway.core.ratelimit import RateWindow

DEFAULT_MODEL = "gpt-image-2-text-to-image"
DEFAULT_PARAM = '{"model":"gpt-image-2-text-to-image","input":{"prompt":"A cat"}}'
_DEFAULT_RESULT = '{"resultUrls":["https://cdn.example.com/result.png"]}'

_TASK_ID_WITH_PLAN = re.compile(r"sim-(?:(success|fail)-(\d{1,9})|never)(?:-.*)?")
_WINDOW = re.compile(r"\s*([1-9]\d{0,8})/([1-9]\d{0,8})\s*")
_KEYS_KEPT = 10_000
_Outcome = Literal["success", "fail", "never"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How one task runs and ends."""

    duration_s: float = 0.0
    """From the task's creation to its end; means nothing where the outcome is never."""
    outcome: _Outcome = "success"
    result: Any = _DEFAULT_RESULT
    """A str stands in ``resultJson`` as it is, JSON or not; anything else is encoded."""
    fail_code: str = "400"
    fail_msg: str = "Sorry, but the image we created may violate OpenAI's content policies."


class PlanMix(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of plans: lognormal durations, and shares (0 to 1) of tasks that fail or never end."""

    median_s: float = 32.0
    sigma: float = 0.35
    fail_share: float = 0.0
    never_share: float = 0.0

    def draw(self, rng: Random) -> Plan:
        """Draw a plan, always with the same two numbers from ``rng``, so that one share does not shift the rest."""
        duration_s = self.median_s * math.exp(self.sigma * rng.gauss(0, 1))
        lot = rng.random()
        if lot < self.fail_share:
            return Plan(duration_s=duration_s, outcome="fail")
        if lot < self.fail_share + self.never_share:
            return Plan(outcome="never")
        return Plan(duration_s=duration_s)


def encode_text(value: Any) -> str:
    """Encode as compact JSON in a str, the form of ``param`` and ``resultJson``."""
    return msgspec.json.encode(value).decode()


class SimTask(msgspec.Struct, frozen=True, gc=False):
    """One task. Small on purpose, as there may be a million; the plan, model and param are mostly shared."""

    created_at: int
    plan: Plan
    model: str = DEFAULT_MODEL
    param: str = DEFAULT_PARAM
    key: str | None = None
    """The Authorization header it was created with; None: every key may ask for it."""

    def envelope(self, task_id: str, now: int) -> dict[str, Any]:
        """Build recordInfo's answer about a task at ``now`` (ms); members in the documented order."""
        plan = self.plan
        duration_ms = round(plan.duration_s * 1000)
        ended = plan.outcome != "never" and now - self.created_at >= duration_ms
        success = ended and plan.outcome == "success"
        fail = ended and not success
        result = plan.result if isinstance(plan.result, str) else encode_text(plan.result)
        return {
            "code": 200,
            "msg": "success",
            "data": {
                "taskId": task_id,
                "model": self.model,
                "state": plan.outcome if ended else "waiting",
                "param": self.param,
                "resultJson": result if success else None,
                "failCode": plan.fail_code if fail else None,
                "failMsg": plan.fail_msg if fail else None,
                # The real one leaves both null where the task failed.
                "costTime": duration_ms if success else None,
                "completeTime": self.created_at + duration_ms if success else None,
                "createTime": self.created_at,
            },
        }


@functools.lru_cache(maxsize=4096)
def _plan(outcome: _Outcome, duration_ms: int) -> Plan:
    return Plan(outcome=outcome, duration_s=duration_ms / 1000)


def plan_from_task_id(task_id: str) -> Plan | None:
    """Read the plan out of ``sim-success-MS-…``, ``sim-fail-MS-…`` or ``sim-never-…``; None for any other id."""
    match = _TASK_ID_WITH_PLAN.fullmatch(task_id)
    return None if match is None else _plan(cast(_Outcome, match[1] or "never"), int(match[2] or 0))


def error_envelope(code: int, msg: str, data: Any = None) -> dict[str, Any]:
    """Build the envelope of an error; the HTTP status that goes with it equals ``code``."""
    return {"code": code, "msg": msg, "data": data}


class Refusal(NamedTuple):
    """Which window refused a request, and the whole seconds until it would not."""

    window: RateWindow
    retry_after_s: int


def parse_windows(text: str) -> tuple[RateWindow, ...]:
    """Parse ``2/1,60/60`` (requests/seconds); an empty text is no limit. Raises ValueError for anything else."""
    windows = []
    for part in text.split(",") if text.strip() else []:
        match = _WINDOW.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not requests/seconds, for example 2/1,60/60")
        windows.append(RateWindow(int(match[1]), int(match[2])))
    return tuple(windows)


class KeyedLimiter:
    """Sliding windows for each key; a refused request does not count against any."""

    def __init__(self, windows: Sequence[RateWindow]) -> None:
        self._windows = tuple(windows)
        self._accepted: dict[str, deque[float]] = {}
        self._longest = max((window.limit for window in windows), default=0)

    def check(self, key: str, now_s: float) -> Refusal | None:
        """Count a request at ``now_s`` (monotonic seconds) and return None, or say which window refuses it."""
        if not self._windows:
            return None
        accepted = self._accepted.get(key)
        if accepted is None:
            drop_oldest(self._accepted, _KEYS_KEPT)
            accepted = self._accepted[key] = deque(maxlen=self._longest)
        wait_s, full = 0.0, None
        for window in self._windows:
            # The limit-th newest request must have left the window before there is room for one more.
            if len(accepted) >= window.limit:
                left_s = accepted[-window.limit] + window.window_s - now_s
                if left_s > wait_s:
                    wait_s, full = left_s, window
        if full is None:
            accepted.append(now_s)
            return None
        return Refusal(full, math.ceil(wait_s))


def drop_oldest(entries: MutableMapping[str, Any], limit: int) -> None:
    """Make room for one more entry where ``limit`` are held.

    Drops the oldest 1/64 at once: one at a time, each would walk over the holes that the earlier ones left.
    """
    if len(entries) >= limit:
        for key in list(islice(entries, limit // 64 + 1)):
            del entries[key]
