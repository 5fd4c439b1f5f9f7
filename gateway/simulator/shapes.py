"""How each job API beside the family's own puts a task, an error and a list.

Pure: the time is passed in. Called by ``gateway.simulator.jobs``. Every shape repeats the public documentation of its
API, as far as its clients look at it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway.simulator.scenario import SimTask, encode_text, error_envelope

_VIDEO_SECONDS, _VIDEO_SIZE = "4", "720x1280"
_HELD_S = 3600


class JobTask(SimTask, frozen=True):
    """One task of such an API: what was asked for, and whether it was cancelled."""

    api: str = ""
    asked: dict[str, Any] = msgspec.field(default_factory=dict)
    cancelled_at: int | None = None

    def state(self, now: int) -> Literal["waiting", "success", "fail", "cancelled"]:
        if self.cancelled_at is not None:
            return "cancelled"
        if self.plan.outcome == "never" or now < self.ended_at:
            return "waiting"
        return self.plan.outcome

    @property
    def ended_at(self) -> int:
        """When it ends, or would have."""
        return self.created_at + round(self.plan.duration_s * 1000)

    def progress(self, now: int) -> float:
        """Return the share of its time that is over, 0 to 1; of a task that never ends it is 0."""
        if self.state(now) == "success":
            return 1.0
        if self.plan.outcome == "never" or not self.plan.duration_s:
            return 0.0
        return round(min(0.99, (now - self.created_at) / (self.plan.duration_s * 1000)), 2)

    @property
    def result(self) -> Any:
        """The plan's result, decoded; of the family's own form only the list of URLs."""
        result = self.plan.result
        if isinstance(result, str):
            try:
                result = msgspec.json.decode(result)
            except msgspec.DecodeError:
                return result
        return result.get("resultUrls", result) if isinstance(result, dict) else result

    @property
    def url(self) -> str:
        """The first URL of the result."""
        result = self.result
        return str(result[0] if isinstance(result, list) and result else result)


class JobApi:
    """One API. An answer to a create is the record of its first moment, where the API says no other."""

    name = ""
    """Whose tasks are whose: one API's are unknown to the others."""
    created_status = 200
    default_model = ""
    needs: tuple[str, ...] = ()
    """Members without which a create is refused."""
    needs_header: str | None = None
    waits = False
    """Whether a create holds its answer where the client says ``Prefer: wait``."""

    def record(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        raise NotImplementedError

    def created(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        return self.record(task_id, task, now)

    def listed(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        raise NotImplementedError

    def error(self, status: int, message: str, data: Any = None) -> dict[str, Any]:
        """Build the body of an error; ``data`` of a 429 has the wait in ``retryAfter``."""
        raise NotImplementedError


class _Replicate(JobApi):
    """https://replicate.com/docs/reference/http."""

    name = "replicate"
    created_status = 201
    default_model = "replicate/hello-world"
    needs = ("input",)
    waits = True

    def record(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        state = task.state(now)
        ended_at = now if state == "waiting" else task.cancelled_at or task.ended_at
        seconds = (ended_at - task.created_at) / 1000
        url = f"https://api.replicate.com/v1/predictions/{task_id}"
        status = {"waiting": "processing", "success": "succeeded", "fail": "failed", "cancelled": "canceled"}[state]
        return {
            "id": task_id,
            "model": task.model,
            "version": task.asked.get("version", "hidden"),
            "input": task.asked.get("input", {}),
            "logs": "",
            "output": task.result if state == "success" else None,
            "data_removed": False,
            "error": task.plan.fail_msg if state == "fail" else None,
            "status": status,
            "created_at": _iso(task.created_at),
            "started_at": _iso(task.created_at),
            "completed_at": None if state == "waiting" else _iso(ended_at),
            "metrics": {} if state == "waiting" else {"predict_time": seconds, "total_time": seconds},
            "urls": {"cancel": f"{url}/cancel", "get": url},
        }

    def created(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        record = self.record(task_id, task, now)
        if record["status"] == "processing":
            record |= {"status": "starting", "started_at": None}
        return record

    def listed(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"previous": None, "next": None, "results": list(records)}

    def error(self, status: int, message: str, data: Any = None) -> dict[str, Any]:
        if status == 429:
            return {"detail": message, "status": 429, "retry_after": data["retryAfter"]}
        return {"title": message, "detail": message, "status": status}


class _Runway(JobApi):
    """https://docs.dev.runwayml.com/api."""

    name = "runway"
    default_model = "gen4_turbo"
    needs = ("model",)
    needs_header = "x-runway-version"

    def record(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        record: dict[str, Any] = {"id": task_id, "createdAt": _iso(task.created_at)}
        match task.state(now):
            case "success":
                return record | {"status": "SUCCEEDED", "output": task.result, "cost": {"credits": 25}}
            case "fail":
                failure = {"failure": task.plan.fail_msg, "failureCode": task.plan.fail_code}
                return record | {"status": "FAILED", **failure, "cost": {"credits": 0}}
            case "cancelled":
                return record | {"status": "CANCELLED", "cost": {"credits": 0}}
        return record | {"status": "RUNNING", "progress": task.progress(now), "estimatedCost": {"credits": 25}}

    def created(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        return {"id": task_id}

    def error(self, status: int, message: str, data: Any = None) -> dict[str, Any]:
        return {"error": message}


class _Luma(JobApi):
    """https://docs.lumalabs.ai/reference."""

    name = "luma"
    created_status = 201
    default_model = "ray-2"
    needs = ("model",)

    def record(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        state = task.state(now)
        kind = "image" if task.model.startswith("photon") else "video"
        assets = {"image": None, "video": None, "progress_video": None, kind: task.url}
        return {
            "id": task_id,
            "generation_type": kind,
            "state": {"waiting": "dreaming", "success": "completed"}.get(state, "failed"),
            "failure_reason": task.plan.fail_msg if state == "fail" else None,
            "created_at": _iso(task.created_at),
            "assets": assets if state == "success" else None,
            "model": task.model,
            "request": {"generation_type": kind, **task.asked},
        }

    def created(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        return self.record(task_id, task, now) | {"state": "queued", "assets": None, "failure_reason": None}

    def listed(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "generations": list(records),
            "has_more": False,
            "count": len(records),
            "limit": 100,
            "offset": 0,
        }

    def error(self, status: int, message: str, data: Any = None) -> dict[str, Any]:
        return {"detail": message}


class _OpenAIVideo(JobApi):
    """https://platform.openai.com/docs/api-reference/videos."""

    name = "openai-video"
    default_model = "sora-2"
    needs = ("prompt",)

    def record(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        state = task.state(now)
        ended_at = task.ended_at // 1000
        error = {"code": task.plan.fail_code, "message": task.plan.fail_msg}
        return {
            "id": task_id,
            "object": "video",
            "created_at": task.created_at // 1000,
            "status": {"waiting": "in_progress", "success": "completed"}.get(state, "failed"),
            "completed_at": None if state == "waiting" else ended_at,
            "error": error if state == "fail" else None,
            "expires_at": ended_at + _HELD_S if state == "success" else None,
            "model": task.model,
            "progress": round(task.progress(now) * 100),
            "prompt": task.asked.get("prompt"),
            "remixed_from_video_id": task.asked.get("remixed_from_video_id"),
            "seconds": task.asked.get("seconds", _VIDEO_SECONDS),
            "size": task.asked.get("size", _VIDEO_SIZE),
        }

    def created(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        first = {"status": "queued", "progress": 0, "completed_at": None, "expires_at": None, "error": None}
        return self.record(task_id, task, now) | first

    def listed(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [record["id"] for record in records] or [None]
        return {"object": "list", "data": list(records), "first_id": ids[0], "last_id": ids[-1], "has_more": False}

    def error(self, status: int, message: str, data: Any = None) -> dict[str, Any]:
        return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


class _Kie(JobApi):
    """An API of kie.ai beside its jobs API: the same envelope around another record. https://docs.kie.ai."""

    needs = ("prompt",)

    def record(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        state = task.state(now)
        ended = state != "waiting"
        data = {
            "taskId": task_id,
            "paramJson": encode_text(task.asked),
            "completeTime": self.time(task.ended_at) if ended else None,
            "response": self.response(task_id, task) if state == "success" else None,
            "successFlag": {"waiting": 0, "success": 1}.get(state, 3),
            "errorCode": int(task.plan.fail_code) if state == "fail" else None,
            "errorMessage": task.plan.fail_msg if state == "fail" else "",
            "createTime": self.time(task.created_at),
        }
        return {"code": 200, "msg": "success", "data": self.differing(data, task, now)}

    def created(self, task_id: str, task: JobTask, now: int) -> dict[str, Any]:
        return {"code": 200, "msg": "success", "data": {"taskId": task_id}}

    def error(self, status: int, message: str, data: Any = None) -> dict[str, Any]:
        return error_envelope(status, message, data)

    def time(self, ms: int) -> Any:
        return ms

    def response(self, task_id: str, task: JobTask) -> dict[str, Any]:
        return {"resultUrls": task.result}

    def differing(self, data: dict[str, Any], task: JobTask, now: int) -> dict[str, Any]:
        """Return ``data`` with what only this API has, or has under another name."""
        return data


class _Kie4oImage(_Kie):
    name = "kie-4o-image"

    def differing(self, data: dict[str, Any], task: JobTask, now: int) -> dict[str, Any]:
        status = {"waiting": "GENERATING", "success": "SUCCESS"}.get(task.state(now), "GENERATE_FAILED")
        return data | {"status": status, "progress": f"{task.progress(now):.2f}"}


class _KieVeo(_Kie):
    name = "kie-veo"
    default_model = "veo3_fast"

    def time(self, ms: int) -> str:
        return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")

    def response(self, task_id: str, task: JobTask) -> dict[str, Any]:
        return {"taskId": task_id, "resultUrls": task.result, "originUrls": task.result, "resolution": "1080p"}

    def differing(self, data: dict[str, Any], task: JobTask, now: int) -> dict[str, Any]:
        return data | {"fallbackFlag": False}


class _KieFlux(_Kie):
    name = "kie-flux-kontext"
    default_model = "flux-kontext-pro"

    def time(self, ms: int) -> str:
        return _iso(ms)

    def response(self, task_id: str, task: JobTask) -> dict[str, Any]:
        return {"originImageUrl": task.url, "resultImageUrl": task.url}


class _KieMj(_KieFlux):
    name = "kie-mj"
    default_model = "mj_txt2img"

    def differing(self, data: dict[str, Any], task: JobTask, now: int) -> dict[str, Any]:
        urls = [{"resultUrl": url} for url in task.result] if data.pop("response") else None
        return data | {"taskType": "mj_txt2img", "resultInfoJson": {"resultUrls": urls} if urls else None}


class _KieSuno(_Kie):
    name = "kie-suno"
    default_model = "V4_5"

    def response(self, task_id: str, task: JobTask) -> dict[str, Any]:
        return {"taskId": task_id, "sunoData": [{"id": f"{task_id}-1", "audioUrl": task.url, "duration": 198.44}]}

    def differing(self, data: dict[str, Any], task: JobTask, now: int) -> dict[str, Any]:
        flag, param = data.pop("successFlag"), data.pop("paramJson")
        status = {0: "PENDING", 1: "SUCCESS"}.get(flag, "GENERATE_AUDIO_FAILED")
        return data | {"param": param, "parentMusicId": "", "status": status, "type": "GENERATE"}


REPLICATE, RUNWAY, LUMA, OPENAI_VIDEO = _Replicate(), _Runway(), _Luma(), _OpenAIVideo()
KIE_4O_IMAGE, KIE_VEO, KIE_FLUX, KIE_MJ, KIE_SUNO = _Kie4oImage(), _KieVeo(), _KieFlux(), _KieMj(), _KieSuno()


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
