"""The routes of the job APIs beside the family's own, and what each does with the simulator's tasks.

One table of routes, in which a further API is a few rows and a shape. Must not touch a socket, count or limit: that is
the same for all APIs and ``gateway.simulator.app``'s, which calls this. A callback that a create asks for is ignored:
nothing here ever calls anybody.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs
from uuid import uuid4

from msgspec.structs import replace

from gateway.core import lenientjson
from gateway.simulator.faults import Endpoint
from gateway.simulator.scenario import Plan, SimTask, plan_from_task_id
from gateway.simulator.shapes import (
    KIE_4O_IMAGE,
    KIE_FLUX,
    KIE_MJ,
    KIE_SUNO,
    KIE_VEO,
    LUMA,
    OPENAI_VIDEO,
    REPLICATE,
    RUNWAY,
    JobApi,
    JobTask,
)

VIDEO = b"\x00\x00\x00\x18ftypmp42 simulated"
"""What a finished video of OpenAI's is, byte for byte."""

_Do = Literal["create", "rework", "read", "list", "cancel", "delete", "content", "upload", "show"]
_ENDPOINTS: dict[_Do, Endpoint] = {"create": "createTask", "rework": "createTask", "read": "recordInfo"}
_LONGEST_WAIT_S = 60.0
_LATE_S = 0.01  # a timer may be early by its resolution
_WAIT = re.compile(r"\bwait(?:=(\d+))?")
_PLACE = re.compile(r"\{(\w+)(?::([\w|-]+))?\}")
_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_FIELD = re.compile(rb'name="([^"]*)"')

# {name} is any one segment, {name:this|that} one of those. The id of a read comes in the path, else as ?taskId=. To
# rework is to create of a task that exists, where the path names one, and needs no further members.
_ROUTES: tuple[tuple[JobApi, _Do, str], ...] = (
    (REPLICATE, "create", "POST /v1/predictions"),
    (REPLICATE, "create", "POST /v1/models/{owner}/{name}/predictions"),
    (REPLICATE, "create", "POST /v1/deployments/{owner}/{name}/predictions"),
    (REPLICATE, "read", "GET /v1/predictions/{id}"),
    (REPLICATE, "list", "GET /v1/predictions"),
    (REPLICATE, "cancel", "POST /v1/predictions/{id}/cancel"),
    (REPLICATE, "upload", "POST /v1/files"),
    (REPLICATE, "show", "GET /v1/account"),
    (RUNWAY, "create", "POST /v1/{kind:image_to_video|text_to_video|video_to_video|video_to_audio|video_to_hdr}"),
    (RUNWAY, "create", "POST /v1/{kind:video_upscale|character_performance|text_to_image|image_upscale}"),
    (RUNWAY, "create", "POST /v1/{kind:text_to_speech|speech_to_speech|sound_effect|voice_dubbing|voice_isolation}"),
    (RUNWAY, "read", "GET /v1/tasks/{id}"),
    (RUNWAY, "delete", "DELETE /v1/tasks/{id}"),
    (RUNWAY, "show", "GET /v1/organization"),
    (LUMA, "create", "POST /dream-machine/v1/generations"),
    (LUMA, "create", "POST /dream-machine/v1/generations/{kind:image|video}"),
    (LUMA, "create", "POST /dream-machine/v1/generations/video/{kind:modify|reframe}"),
    (LUMA, "create", "POST /dream-machine/v1/generations/image/reframe"),
    (LUMA, "rework", "POST /dream-machine/v1/generations/{id}/{kind:upscale|audio}"),
    (LUMA, "read", "GET /dream-machine/v1/generations/{id}"),
    (LUMA, "list", "GET /dream-machine/v1/generations"),
    (LUMA, "delete", "DELETE /dream-machine/v1/generations/{id}"),
    (LUMA, "show", "GET /dream-machine/v1/credits"),
    (OPENAI_VIDEO, "create", "POST /v1/videos"),
    (OPENAI_VIDEO, "create", "POST /v1/videos/{kind:edits|extensions}"),
    (OPENAI_VIDEO, "rework", "POST /v1/videos/{id}/remix"),
    (OPENAI_VIDEO, "read", "GET /v1/videos/{id}"),
    (OPENAI_VIDEO, "list", "GET /v1/videos"),
    (OPENAI_VIDEO, "delete", "DELETE /v1/videos/{id}"),
    (OPENAI_VIDEO, "content", "GET /v1/videos/{id}/content"),
    (KIE_4O_IMAGE, "create", "POST /api/v1/gpt4o-image/generate"),
    (KIE_4O_IMAGE, "read", "GET /api/v1/gpt4o-image/record-info"),
    (KIE_VEO, "create", "POST /api/v1/veo/{kind:generate|extend}"),
    (KIE_VEO, "read", "GET /api/v1/veo/record-info"),
    (KIE_FLUX, "create", "POST /api/v1/flux/kontext/generate"),
    (KIE_FLUX, "read", "GET /api/v1/flux/kontext/record-info"),
    (KIE_MJ, "create", "POST /api/v1/mj/generate"),
    (KIE_MJ, "rework", "POST /api/v1/mj/{kind:generateUpscale|generateVary|generateVideoExtend}"),
    (KIE_MJ, "read", "GET /api/v1/mj/record-info"),
    (KIE_SUNO, "create", "POST /api/v1/generate"),
    (KIE_SUNO, "rework", "POST /api/v1/generate/{kind:extend|upload-cover|upload-extend|add-instrumental}"),
    (KIE_SUNO, "rework", "POST /api/v1/generate/{kind:add-vocals|mashup|replace-section}"),
    (KIE_SUNO, "read", "GET /api/v1/generate/record-info"),
    (KIE_VEO, "show", "GET /api/v1/chat/credit"),
)
_SHOWN: dict[str, dict[str, Any]] = {
    "/v1/account": {"type": "user", "username": "simulated", "name": "Simulated"},
    "/v1/organization": {"creditBalance": 1000},
    "/dream-machine/v1/credits": {"credit_balance": 1000.0},
    "/api/v1/chat/credit": {"code": 200, "msg": "success", "data": 1000},
}


class JobCall(NamedTuple):
    """A request that the table has a row for."""

    api: JobApi
    do: _Do
    path: str
    places: Mapping[str, str]

    @property
    def endpoint(self) -> Endpoint | None:
        """What it counts as beside the family's own calls; None: neither a read nor a create."""
        return _ENDPOINTS.get(self.do)

    @property
    def task_id(self) -> str:
        return self.places.get("id", "")


class JobAnswer(NamedTuple):
    """A status and a body: JSON, or bytes as they are."""

    status: int
    body: Any = b""
    made: str = ""
    """The id of the task that this answer created."""
    hold_s: float = 0.0
    """For how long the client has asked to wait for the end of that task; then ``Jobs.made`` has the answer."""


def job_call(method: str, path: str, query: bytes) -> JobCall | None:
    """Find the route of a request; None where no API has one."""
    for verb, pattern, api, do in _PATTERNS:
        if verb == method and (match := pattern.fullmatch(path)) is not None:
            places = match.groupdict()
            if do == "read" and "id" not in places:
                places["id"] = parse_qs(query.decode("latin-1")).get("taskId", [""])[0]
            return JobCall(api, do, path, places)
    return None


class Jobs:
    """What the calls do. ``remember`` makes a task known or replaces it; ``plan_of`` draws the plan of a model's."""

    def __init__(
        self,
        tasks: dict[str, SimTask],
        remember: Callable[[str, SimTask], None],
        plan_of: Callable[[str], Plan],
    ) -> None:
        self._tasks = tasks
        self._remember = remember
        self._plan_of = plan_of

    def answer(self, call: JobCall, headers: Mapping[str, str], body: bytes, key: str, now: int) -> JobAnswer:
        """Carry out a call with this key at ``now`` (ms); ``headers`` by lower-case name."""
        api = call.api
        if api.needs_header is not None and api.needs_header not in headers:
            return JobAnswer(400, api.error(400, f"{api.needs_header} is required"))
        match call.do:
            case "create" | "rework":
                return self._create(call, headers, body, key, now)
            case "list":
                return JobAnswer(200, api.listed(self._all(api, key, now)))
            case "show":
                return JobAnswer(200, _SHOWN[call.path])
            case "upload":
                return _upload(headers, body)
        task = self._task(call, key, now)
        if task is None:
            return JobAnswer(404, api.error(404, "Not found"))
        state = task.state(now)
        match call.do:
            case "read":
                return JobAnswer(200, api.record(call.task_id, task, now))
            case "content" if state == "success":
                return JobAnswer(200, VIDEO)
            case "content":
                return JobAnswer(404, api.error(404, "The video is not ready"))
            case "cancel":
                task = self._cancelled(call.task_id, task, now)
                return JobAnswer(200, api.record(call.task_id, task, now))
        # Delete: Runway cancels what still runs, and keeps it.
        if api is RUNWAY and state == "waiting":
            self._cancelled(call.task_id, task, now)
        else:
            del self._tasks[call.task_id]
        if api is OPENAI_VIDEO:
            return JobAnswer(200, {"id": call.task_id, "object": "video.deleted", "deleted": True})
        return JobAnswer(204)

    def made(self, call: JobCall, task_id: str, now: int) -> JobAnswer:
        """Answer a create once more, now that its client has waited."""
        task = self._tasks[task_id]
        assert isinstance(task, JobTask)  # noqa: S101 - it was made by _create
        return JobAnswer(call.api.created_status, call.api.created(task_id, task, now))

    def _create(self, call: JobCall, headers: Mapping[str, str], body: bytes, key: str, now: int) -> JobAnswer:
        api = call.api
        asked = _read(headers.get("content-type", ""), body)
        if asked is None:
            return JobAnswer(400, api.error(400, "The request body cannot be read"))
        source = self._task(call, key, now) if call.task_id else None
        if call.task_id and source is None:
            return JobAnswer(404, api.error(404, "Not found"))
        for name in api.needs if call.do == "create" else ():
            if not asked.get(name):
                return JobAnswer(422, api.error(422, f"{name} is required"))
        named = call.places.get("owner", "") + "/" + call.places.get("name", "")
        model = named if named != "/" else asked.get("model") or (source.model if source else api.default_model)
        if source is not None and api is OPENAI_VIDEO:
            asked["remixed_from_video_id"] = call.task_id
        task_id = str(uuid4())
        told = {} if api is RUNWAY else asked  # its answers show none of that, which may be megabytes
        task = JobTask(now, self._plan_of(str(model)), str(model), "", key, api.name, told)
        self._remember(task_id, task)
        wait = _WAIT.search(headers.get("prefer", "")) if api.waits else None
        hold_s = 0.0
        if wait is not None:
            hold_s = min(float(wait[1] or _LONGEST_WAIT_S), _LONGEST_WAIT_S)
            if task.plan.outcome != "never":
                hold_s = min(hold_s, task.plan.duration_s + _LATE_S) if task.plan.duration_s else 0.0
        return self.made(call, task_id, now)._replace(made=task_id, hold_s=hold_s)

    def _task(self, call: JobCall, key: str, now: int) -> JobTask | None:
        task = self._tasks.get(call.task_id)
        if task is None:
            plan = plan_from_task_id(call.task_id)
            if plan is None:
                return None
            task = JobTask(now, plan, call.api.default_model, "", None, call.api.name)
            self._remember(call.task_id, task)
        mine = isinstance(task, JobTask) and task.api == call.api.name and task.key in (None, key)
        return task if mine and isinstance(task, JobTask) else None

    def _all(self, api: JobApi, key: str, now: int) -> list[dict[str, Any]]:
        """Return the records of this API's tasks that this key may see, the newest first."""
        found = [(task_id, task) for task_id, task in self._tasks.items() if isinstance(task, JobTask)]
        return [
            api.record(task_id, task, now)
            for task_id, task in reversed(found)
            if task.api == api.name and task.key in (None, key)
        ]

    def _cancelled(self, task_id: str, task: JobTask, now: int) -> JobTask:
        if task.state(now) == "waiting":
            task = replace(task, cancelled_at=now)
            self._remember(task_id, task)
        return task


def _read(content_type: str, body: bytes) -> dict[str, Any] | None:
    """Read a create's members: of JSON, or the fields of a form; None where it is neither."""
    if (boundary := _BOUNDARY.search(content_type)) is not None:
        return {name: content.decode("utf-8", "replace") for name, content in _form(boundary[1], body).items()}
    try:
        asked = lenientjson.decode(body)
    except ValueError:
        return None
    return asked if isinstance(asked, dict) else None


def _form(boundary: str, body: bytes) -> dict[str, bytes]:
    """Read multipart/form-data as clients send it."""
    fields = {}
    for part in body.split(b"--" + boundary.encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if (name := _FIELD.search(head)) is not None:
            fields[name[1].decode()] = content.removesuffix(b"\r\n")
    return fields


def _upload(headers: Mapping[str, str], body: bytes) -> JobAnswer:
    """Answer as Replicate does for a file, which is then forgotten."""
    boundary = _BOUNDARY.search(headers.get("content-type", ""))
    content = _form(boundary[1], body).get("content", b"") if boundary else body
    digest = hashlib.sha256(content).hexdigest()
    file = {
        "id": digest[:32],
        "name": "file",
        "content_type": "application/octet-stream",
        "size": len(content),
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-02T00:00:00Z",
        "urls": {"get": f"https://api.replicate.com/v1/files/{digest[:32]}"},
    }
    return JobAnswer(201, file)


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(_PLACE.sub(lambda place: f"(?P<{place[1]}>{place[2] or '[^/]+'})", path))


_PATTERNS = [(row.split(" ")[0], _compiled(row.split(" ")[1]), api, do) for api, do, row in _ROUTES]
