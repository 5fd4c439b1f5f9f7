"""Upstream profiles: what the shipped one says, what others can say, and how mistakes in them are told."""

import json
from pathlib import Path

import pytest

from gateway.config.profile import Profile, dig
from gateway.config.profilefile import parse_profile
from gateway.core.errors import ConfigError
from gateway.core.model import TaskState
from gateway.upstream.answer import PollKind, read_answer

SHIPPED = Path(__file__).parents[3] / "config" / "upstreams"

MINIMAL = """
name = "replicate"
base_url = "https://api.replicate.com"
[request]
status_path = "/v1/predictions/{task_id}"
[states]
path = "status"
success = ["succeeded"]
fail = ["failed", "canceled", "aborted"]
"""

REPLICATE = (
    MINIMAL
    + """
[fields]
task_id = "id"
result = "output"
fail_msg = "error"
cost_time = "metrics.predict_time"
"""
)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_profile_can_be_read(path: Path) -> None:
    """Every shipped profile is valid, and the file is named as the profile is."""
    assert parse_profile(path.read_text("utf-8"), path.name).name == path.stem


def test_what_the_default_upstream_is_asked() -> None:
    """The default upstream is asked as its documentation says: path, query, and the key as Bearer."""
    profile = parse_profile((SHIPPED / "aigptimage.toml").read_text("utf-8"), "aigptimage.toml")
    assert profile.base_url == "https://aigptimage.com"
    assert profile.request.status_path == "/api/v1/jobs/recordInfo?taskId={task_id}"
    assert (profile.request.auth_header, profile.request.auth_prefix) == ("authorization", "Bearer ")


def test_defaults_fit_an_api_without_an_envelope() -> None:
    """What a profile leaves out means: Bearer, no envelope, no named fields, nothing encoded in strings."""
    profile = parse_profile(MINIMAL, "x.toml")
    assert (profile.request.auth_header, profile.request.auth_prefix, profile.request.headers) == (
        "authorization",
        "Bearer ",
        {},
    )
    assert (profile.envelope.code, profile.envelope.ok, profile.envelope.message) == (None, (200,), [])
    assert not profile.json_in_string.result
    assert not profile.json_in_string.param


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        ({"id": "t", "status": "starting"}, PollKind.RUNNING, None),
        ({"id": "t", "status": "processing", "output": None}, PollKind.RUNNING, None),
        (
            {"id": "t", "status": "succeeded", "output": ["https://x/a.png"], "metrics": {"predict_time": 1.5}},
            PollKind.TERMINAL,
            {"state": "success", "result": ["https://x/a.png"], "costTime": 1.5, "failMsg": None},
        ),
        (
            {"id": "t", "status": "canceled", "error": "NSFW", "version": "v1"},
            PollKind.TERMINAL,
            {"state": "fail", "result": None, "failMsg": "NSFW", "extra": {"version": "v1"}},
        ),
    ],
)
def test_a_profile_describes_another_api(
    answer: dict[str, object], kind: PollKind, told: dict[str, object] | None
) -> None:
    """An API with other words, other paths and no envelope is read by its profile alone."""
    result = read_answer(parse_profile(REPLICATE, "x.toml"), "t", 200, None, json.dumps(answer).encode())
    assert result.kind is kind
    if told is None:
        assert result.outcome is None
        return
    assert result.outcome is not None
    assert result.outcome.state is TaskState(str(told["state"]))
    data = json.loads(result.outcome.data)
    assert {name: data.get(name) for name in told} == told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[states]", "[states", ("not valid TOML",)),
        ('path = "status"', "", ("states", "missing required field `path`")),
        ('path = "status"', 'path = "data..status"', ("states.path", "regex")),
        ('path = "status"', 'path = "status."', ("states.path", "regex")),
        ('path = "status"', 'path = "status"\nsucess = []', ("states", "unknown field `sucess`")),
        ('["succeeded"]', "[]", ("states.success", "length >= 1")),
        ('["succeeded"]', '["failed"]', ("states", "failed", "both success and fail")),
        ('["succeeded"]', '"succeeded"', ("states.success", "Expected `array`")),
        ("https://", "ftp://", ("base_url", "regex")),
        ('name = "replicate"', 'name = "Re plicate"', ("name", "regex")),
        ("{task_id}", "", ("request.status_path", "has no {task_id}")),
        ('status_path = "/v1', 'status_path = "v1', ("request.status_path", "regex")),
        ('name = "replicate"', 'name = "replicate"\ncolour = 1', ("unknown field `colour`",)),
    ],
)
def test_a_mistake_is_named(old: str, new: str, told: tuple[str, ...]) -> None:
    """A profile that cannot be used is refused with the file, the key and the reason."""
    assert old in MINIMAL
    with pytest.raises(ConfigError) as caught:
        parse_profile(MINIMAL.replace(old, new, 1), "mine.toml")
    (problem,) = caught.value.problems
    assert problem.startswith("mine.toml: ")
    for part in told:
        assert part in problem


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (None, None),
        ("a", {"b": {"c": 1}, "n": None, "l": [{"c": 2}], "s": "text"}),
        ("a.b.c", 1),
        ("a.n", None),
        ("a.n.c", None),
        ("a.missing", None),
        ("missing.b.c", None),
        ("a.b.c.d", None),
        ("a.l.c", None),
        ("a.s.c", None),
    ],
)
def test_dig_finds_or_returns_none(path: str | None, found: object) -> None:
    """A path leads through objects only; whatever is in its way, the answer is None and never an error."""
    answer = {"a": {"b": {"c": 1}, "n": None, "l": [{"c": 2}], "s": "text"}}
    assert dig(answer, path) == found


@pytest.mark.parametrize("answer", [None, 1, "a", [], True])
def test_dig_takes_any_answer(answer: object) -> None:
    """An answer that is no object holds nothing."""
    assert dig(answer, "a.b") is None


def test_a_profile_cannot_be_changed() -> None:
    """What the process runs by stays what was read."""
    profile: Profile = parse_profile(MINIMAL, "x.toml")
    with pytest.raises(AttributeError):
        profile.name = "other"  # type: ignore[misc]
