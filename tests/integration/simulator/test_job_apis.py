"""The job APIs beside the family's own: their routes, what they answer, and that the shipped profiles read it right."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from gateway.config.profile import Profile, dig, listed
from gateway.config.profilefile import config_dir, read_profiles
from gateway.core.clock import SystemClock
from gateway.simulator import Fault, FaultKind, Plan, SimulatedUpstream, parse_windows, serve
from gateway.simulator.jobs import VIDEO
from gateway.upstream.answer import PollKind, PollResult, read_answer
from tests.integration.simulator.test_simulator import FakeClock, new_client

FIXTURES = Path(__file__).parents[2] / "fixtures"
PROFILES = read_profiles([config_dir() / "upstreams"])[0]
URL = "https://cdn.example.com/result.png"


class Job(NamedTuple):
    """How one API's tasks are made and read."""

    create: str
    body: dict[str, Any]
    read: str
    created_id: str = "id"


PROMPT = {"prompt": "A cat"}
JOBS = {
    "replicate": Job("/v1/models/owner/name/predictions", {"input": PROMPT}, "/v1/predictions/{}"),
    "runway": Job("/v1/image_to_video", {"model": "gen4_turbo", "promptText": "A cat"}, "/v1/tasks/{}"),
    "luma": Job(
        "/dream-machine/v1/generations/video", {"model": "ray-2", **PROMPT}, "/dream-machine/v1/generations/{}"
    ),
    "openai-video": Job("/v1/videos", PROMPT, "/v1/videos/{}"),
    "kie-4o-image": Job(
        "/api/v1/gpt4o-image/generate", PROMPT, "/api/v1/gpt4o-image/record-info?taskId={}", "data.taskId"
    ),
    "kie-veo": Job("/api/v1/veo/generate", PROMPT, "/api/v1/veo/record-info?taskId={}", "data.taskId"),
    "kie-flux-kontext": Job(
        "/api/v1/flux/kontext/generate", PROMPT, "/api/v1/flux/kontext/record-info?taskId={}", "data.taskId"
    ),
    "kie-mj": Job("/api/v1/mj/generate", PROMPT, "/api/v1/mj/record-info?taskId={}", "data.taskId"),
    "kie-suno": Job("/api/v1/generate", PROMPT, "/api/v1/generate/record-info?taskId={}", "data.taskId"),
}
UNTIMED = {"kie-suno", "kie-veo"}
"""They do not tell when a task was made, or not in which zone."""
HEADERS = {"x-runway-version": "2024-11-06"}
EVERY = pytest.mark.parametrize("name", JOBS)
PROFILED = pytest.mark.parametrize("name", sorted(JOBS.keys() & PROFILES.keys()))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def simulator(clock: FakeClock) -> SimulatedUpstream:
    return SimulatedUpstream(clock, plans=Plan(duration_s=5), models={"fails": Plan(duration_s=5, outcome="fail")})


@pytest.fixture
async def client(simulator: SimulatedUpstream) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(simulator) as base_url, new_client(base_url, "k") as client:
        client.headers.update(HEADERS)
        yield client


async def created(client: httpx.AsyncClient, name: str) -> str:
    job = JOBS[name]
    response = await client.post(job.create, json=job.body)
    assert response.status_code in (200, 201), response.text
    found = response.json()
    for member in job.created_id.split("."):
        found = found[member]
    return str(found)


def read(profile: Profile, task_id: str, response: httpx.Response) -> PollResult:
    return read_answer(profile, task_id, response.status_code, None, response.content)


def members(answer: Any) -> set[str]:
    """Return the members of an answer, and of the record in the family's envelope."""
    inner = answer.get("data")
    return {*answer, *(f"data.{name}" for name in inner or {})}


@EVERY
async def test_a_created_task_runs_and_ends(name: str, clock: FakeClock, client: httpx.AsyncClient) -> None:
    """Its answers change when the plan says so, and then no more; none names the result before."""
    task_id = await created(client, name)
    path = JOBS[name].read.format(task_id)
    running = await client.get(path)
    clock.advance(4.9)
    assert URL not in (await client.get(path)).text
    clock.advance(0.1)
    ended = await client.get(path)
    clock.advance(60)
    assert running.status_code == ended.status_code == 200
    assert ended.text != running.text
    assert (URL in ended.text) == (name != "openai-video"), "whose record holds no link"
    assert (await client.get(path)).text == ended.text


@PROFILED
async def test_the_shipped_profile_reads_what_is_answered(
    name: str, clock: FakeClock, client: httpx.AsyncClient
) -> None:
    """As running since it was made, where that is told; as success and failure, and as a task that nobody knows."""
    task_id = await created(client, name)

    async def told(task_id: str) -> PollResult:
        return read(PROFILES[name], task_id, await client.get(JOBS[name].read.format(task_id)))

    ends = {task_id: "success", "sim-success-1000-x": "success", "sim-fail-1000-x": "fail"}
    for each in ends:
        running = await told(each)
        made_at = None if name in UNTIMED else clock.now()
        assert (running.kind, running.task_created_at) == (PollKind.RUNNING, made_at)
    clock.advance(5)
    for each, state in ends.items():
        result = await told(each)
        assert result.kind is PollKind.TERMINAL
        assert result.outcome is not None
        assert result.outcome.state.value == state
    assert (await told("nothing")).kind is PollKind.NOT_KNOWN


@PROFILED
async def test_the_answers_have_the_members_of_the_recorded_ones(name: str, client: httpx.AsyncClient) -> None:
    """Whatever an API's documentation shows is there; more may be."""

    ids = {"running": "sim-never-x", "success": "sim-success-0-x", "fail": "sim-fail-0-x", "not_found": "nothing"}
    for stem, task_id in ids.items():
        wanted = json.loads((FIXTURES / name / f"{stem}.json").read_bytes())
        given = (await client.get(JOBS[name].read.format(task_id))).json()
        assert members(wanted) <= members(given), stem


@EVERY
async def test_keys_and_limits_hold_and_errors_have_the_apis_own_shape(name: str, clock: FakeClock) -> None:
    """401 for a wrong key and 429 beyond the limit, on reads and creates; another key's task is unknown."""
    simulator = SimulatedUpstream(clock, keys=["k1", "k2"], rate=parse_windows("1/60"), plans=Plan(outcome="never"))
    job = JOBS[name]
    async with serve(simulator) as url, new_client(url, "k1") as one, new_client(url, "k2") as two:
        for client in (one, two):
            client.headers.update(HEADERS)
        task_id = await created(one, name)
        path = job.read.format(task_id)
        answers = [await one.get(path), await one.get(path), await two.get(path)]
        two.headers["authorization"] = "Bearer other"
        answers += [await two.get(path), await two.post(job.create, json=job.body)]
    assert [answer.status_code for answer in answers] == [200, 429, 404, 401, 401]
    if name in PROFILES:
        kinds = [read(PROFILES[name], task_id, answer).kind for answer in answers]
        assert kinds[1:4] == [PollKind.THROTTLED, PollKind.NOT_KNOWN, PollKind.KEY_REFUSED]
    assert simulator.stats.requests == {"createTask": 2, "recordInfo": 4}
    assert simulator.stats.polls == {task_id: 4}


@EVERY
async def test_faults_meet_these_apis_too(name: str, simulator: SimulatedUpstream, client: httpx.AsyncClient) -> None:
    """A refusal comes in the API's own shape; what spoils bytes spoils theirs; what is the family's own leaves them."""
    path = JOBS[name].read.format("sim-success-0-x")
    whole = (await client.get(path)).text
    simulator.faults.add(Fault(kind=FaultKind.ERROR, status=503, endpoint="recordInfo", times=1))
    simulator.faults.add(Fault(kind=FaultKind.TRUNCATED, times=1), Fault(kind=FaultKind.SLOW, delay_s=0.01, times=1))
    assert (await client.get(path)).status_code == 503
    cut = (await client.get(path)).text
    assert cut == whole[: len(cut)] != whole
    assert (await client.get(path)).text == whole
    if not name.startswith("kie"):
        simulator.faults.add(Fault(kind=FaultKind.MISSING_DATA, times=1), Fault(kind=FaultKind.MESSAGE, times=1))
        assert [(await client.get(path)).text for _ in range(2)] == [whole] * 2


@EVERY
async def test_a_create_that_cannot_be_read_makes_nothing(name: str, client: httpx.AsyncClient) -> None:
    """400 where it is no object, 422 where it lacks what a task needs; and no task."""
    contents = (b"{broken", b"[]", b"{}")
    answers = [await client.post(JOBS[name].create, content=content) for content in contents]
    assert [answer.status_code for answer in answers] == [400, 400, 422]
    assert (await client.get("/_sim/stats")).json()["tasks"] == 0


@PROFILED
async def test_every_create_of_the_shipped_profiles_makes_a_task(
    name: str, clock: FakeClock, client: httpx.AsyncClient
) -> None:
    """By whichever path: of a task that exists, where the path names one, else there is none to work on."""
    source = await created(client, name)
    body = {"model": "m", "input": PROMPT, **PROMPT}
    for path in listed(getattr(PROFILES[name].proxy, "create_path", None)):
        of_a_task = "{id}" in path
        if of_a_task:
            assert (await client.post(path.replace("{id}", "nothing"), json=body)).status_code == 404
        answer = await client.post(path.replace("{id}", source).format(owner="o", name="n"), json=body)
        assert answer.status_code in (200, 201), (path, answer.text)
        task_id = dig(answer.json(), JOBS[name].created_id)
        assert task_id != source
        running = read(PROFILES[name], task_id, await client.get(JOBS[name].read.format(task_id)))
        assert running.kind is PollKind.RUNNING
        if path.endswith("/remix"):
            assert answer.json()["remixed_from_video_id"] == source


@pytest.mark.parametrize("size", [40_000, 2_000_000, 16_000_000])
async def test_pictures_within_a_create(size: int, client: httpx.AsyncClient) -> None:
    """As data URIs, as large as Runway's pages allow."""
    picture = f"data:image/png;base64,{'A' * size}"
    answer = await client.post("/v1/image_to_video", json={"model": "gen4_turbo", "promptImage": picture})
    assert answer.status_code == 200, answer.text


async def test_every_way_to_make_a_prediction(clock: FakeClock, client: httpx.AsyncClient) -> None:
    """By version, of a model and of a deployment; the webhook is ignored; all are listed, the newest first."""
    asked = {"input": PROMPT, "webhook": "http://127.0.0.1:9/x", "webhook_events_filter": ["completed"]}
    bodies = {
        "/v1/predictions": {"version": "5c7d", **asked},
        "/v1/models/owner/name/predictions": asked,
        "/v1/deployments/me/app/predictions": asked,
    }
    made = [(await client.post(path, json=body)) for path, body in bodies.items()]
    assert [answer.status_code for answer in made] == [201] * 3
    assert [answer.json()["model"] for answer in made] == ["replicate/hello-world", "owner/name", "me/app"]
    assert [answer.json()["status"] for answer in made] == ["starting"] * 3
    assert [answer.json()["input"] for answer in made] == [PROMPT] * 3
    listed = (await client.get("/v1/predictions")).json()["results"]
    assert [each["id"] for each in listed] == [answer.json()["id"] for answer in reversed(made)]


async def test_a_prediction_can_be_cancelled_while_it_runs(clock: FakeClock, client: httpx.AsyncClient) -> None:
    """It stays cancelled beyond its time; one that has ended stays as it ended."""
    first, second = await created(client, "replicate"), await created(client, "replicate")
    cancelled = (await client.post(f"/v1/predictions/{first}/cancel")).json()
    clock.advance(5)
    assert (await client.get(f"/v1/predictions/{first}")).json() == cancelled
    assert cancelled["status"] == "canceled"
    assert (await client.post(f"/v1/predictions/{second}/cancel")).json()["status"] == "succeeded"


async def test_a_prediction_is_waited_for_where_the_client_prefers_that() -> None:
    """The answer then has the result, or is the running prediction once the time is over."""
    simulator = SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0.05), models={"o/n": Plan(outcome="never")})
    async with serve(simulator) as url, new_client(url, "k") as client:
        body = {"version": "5c7d", "input": PROMPT}
        waited = await client.post("/v1/predictions", json=body, headers={"prefer": "wait"})
        assert (waited.status_code, waited.json()["status"], waited.json()["output"]) == (201, "succeeded", [URL])
        over = await client.post("/v1/models/o/n/predictions", json=body, headers={"prefer": "wait=1"})
        assert over.json()["status"] == "starting"


async def test_a_file_is_taken_as_it_is(client: httpx.AsyncClient) -> None:
    """Its digest tells whether every byte came."""
    content = b"\x89PNG\r\n\r\n--\x00\xff"
    file = (await client.post("/v1/files", files={"content": ("a.png", content)})).json()
    assert (file["size"], file["checksums"]["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


async def test_a_video_is_made_by_form_or_json_and_fetched(clock: FakeClock, client: httpx.AsyncClient) -> None:
    """The SDK sends a form, with or without a picture in it; the content is there once it has ended."""
    form = {name: (None, value) for name, value in {"prompt": "A cat", "seconds": "8"}.items()}
    by_form = await client.post("/v1/videos", files={**form, "input_reference": ("a.png", b"\x89PNG\r\n\r\n")})
    by_json = await client.post("/v1/videos", json={"prompt": "A cat", "seconds": "8"})
    for answer in (by_form, by_json):
        video = answer.json()
        assert (video["status"], video["progress"], video["seconds"], video["prompt"]) == ("queued", 0, "8", "A cat")
    path = f"/v1/videos/{by_form.json()['id']}"
    assert (await client.get(f"{path}/content")).status_code == 404
    clock.advance(5)
    assert (await client.get(f"{path}/content")).content == VIDEO
    assert [each["status"] for each in (await client.get("/v1/videos")).json()["data"]] == ["completed"] * 2
    assert (await client.delete(path)).json()["deleted"] is True
    assert (await client.get(path)).status_code == 404


async def test_runway_wants_its_version_and_cancels_by_delete(clock: FakeClock, client: httpx.AsyncClient) -> None:
    """What still runs is cancelled and kept, what has ended is removed."""
    running, ended = await created(client, "runway"), "sim-success-0-x"
    assert (await client.delete(f"/v1/tasks/{running}")).status_code == 204
    clock.advance(5)
    assert (await client.get(f"/v1/tasks/{running}")).json()["status"] == "CANCELLED"
    assert (await client.delete(f"/v1/tasks/{ended}")).status_code == 204
    del client.headers["x-runway-version"]
    assert (await client.get(f"/v1/tasks/{running}")).status_code == 400


async def test_luma_lists_and_removes(client: httpx.AsyncClient) -> None:
    """A generation that was removed is unknown, and an API's list has its own tasks only."""
    task_id = await created(client, "luma")
    await created(client, "openai-video")
    listed = (await client.get("/dream-machine/v1/generations")).json()
    assert [each["id"] for each in listed["generations"]] == [task_id]
    assert (await client.delete(f"/dream-machine/v1/generations/{task_id}")).status_code == 204
    assert (await client.get(f"/dream-machine/v1/generations/{task_id}")).status_code == 404
    image = await client.post("/dream-machine/v1/generations/image", json={"model": "photon-1"})
    assert (image.status_code, image.json()["generation_type"]) == (201, "image")


@pytest.mark.parametrize(
    "path", ["/v1/account", "/v1/organization", "/dream-machine/v1/credits", "/api/v1/chat/credit"]
)
async def test_what_clients_try_their_key_with(path: str, client: httpx.AsyncClient) -> None:
    """Accounts and credits, which cost nothing and need the key."""
    assert (await client.get(path)).status_code == 200


async def test_one_apis_task_is_unknown_to_the_others(client: httpx.AsyncClient) -> None:
    """As it would be, were each at its own host."""
    task_id = await created(client, "luma")
    assert (await client.get(f"/v1/predictions/{task_id}")).status_code == 404
    assert (await client.get("/v1/predictions")).json()["results"] == []
