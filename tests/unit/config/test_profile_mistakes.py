"""What a profile may not say, and how it is told; folders of profiles."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config.profile import Proxy, RecordCall, Request, record_call
from gateway.config.profilefile import config_dir, parse_profile, read_profiles
from gateway.core.errors import ConfigError
from tests.profiles import NAMES

RIGHT = """
name = "mine"
base_url = "https://api.example.com"
[request]
status_path = "/jobs/{task_id}"
[envelope]
code = "code"
[states]
path = "state"
success = ["yes"]
fail = ["no"]
[fields]
task_id = "id"
[limits]
query = [{ limit = 2, window_s = 1 }]
[proxy]
create_path = "/jobs"
created_id = "id"
callback_members = ["callback"]
record_path = "/jobs"
record_param = "id"
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('fail = ["no"]', 'fail = ["no", 3]', "states: success, fail and not_known need values of one kind: "),
        ('fail = ["no"]', "fail = [false]", "states: success, fail and not_known need values of one kind: "),
        ('fail = ["no"]', "fail = [[]]", "states.fail[0]: Expected `"),
        ('fail = ["no"]', 'fail = ["yes"]', "states: ['yes'] cannot mean both success and fail"),
        ('fail = ["no"]', 'fail = ["no"]\nnot_known = ["no"]', "states.not_known: ['no'] cannot end the task as well"),
        ('fail = ["no"]', 'fail = ["no"]\nprogress_full = 0', "states.progress_full: Expected `float` > 0"),
        ('task_id = "id"', 'unknown = "id"', "fields: Object contains unknown field `unknown`"),
        ('task_id = "id"', 'result = ["a", "b."]', "fields.result: ['b.'] cannot be paths; "),
        ('task_id = "id"', 'fail_msg = "a b"', "fields.fail_msg: ['a b'] cannot be paths; "),
        ('task_id = "id"', "fail_code = 1", "fields.fail_code: Expected `str | array | null`, got `int`"),
        ("limit = 2", "limit = 0", "limits.query[0].limit: Expected `int` >= 1"),
        ("window_s = 1", "window_s = 0", "limits.query[0].window_s: Expected `float` > 0"),
        ("[limits]", "[limits]\npoll_min_s = -1", "limits.poll_min_s: Expected `float` > 0"),
        ("[limits]", '[units]\ntime = "minutes"\n[limits]', "units.time: Invalid enum value 'minutes'"),
        ('record_param = "id"', "", "proxy: record_path and record_param go together"),
        ('record_path = "/jobs"', 'record_path = "/{x}"', "proxy.record_path: Expected `str` matching regex"),
        ('create_path = "/jobs"', 'create_path = "jobs"', "proxy.create_path: ['jobs'] cannot be served; a path has "),
        ('create_path = "/jobs"', 'create_path = ["/a", "/b?c"]', "proxy.create_path: ['/b?c'] cannot be served"),
        ('create_path = "/jobs"', 'create_path = "/{a}/{a}"', "proxy.create_path: ['/{a}/{a}'] cannot be served"),
        ('create_path = "/jobs"', 'create_path = "/{a:int}"', "proxy.create_path: ['/{a:int}'] cannot be served"),
        ('create_path = "/jobs"', "create_path = []", "proxy.create_path: [] cannot be served"),
        ('create_path = "/jobs"', "create_path = 7", "proxy.create_path: Expected `str | array`, got `int`"),
        ("[proxy]", '[proxy]\npass = ["/ok", "HEAD /a"]', "proxy.pass: ['HEAD /a'] cannot be served; write /path, "),
        ("[proxy]", '[proxy]\npass = ["get /a"]', "proxy.pass: ['get /a'] cannot be served; write /path, "),
        ("[proxy]", '[proxy]\npass = ["GET  /a"]', "proxy.pass: ['GET  /a'] cannot be served; write /path, "),
        ("[proxy]", "[proxy]\npass = [7]", "proxy.pass[0]: Expected `str`, got `int`"),
        ("[proxy]", "[proxy]\npassed = []", "proxy: Object contains unknown field `passed`"),
        ("[proxy]", '[proxy]\nheaders = ["Prefer", "Host"]', "proxy.headers: ['Host'] are the gateway's own to send"),
        ("[proxy]", '[proxy]\nheaders = ["Authorization"]', "proxy.headers: ['Authorization'] are the gateway's own "),
        ("{task_id}", "{id}", "request.status_path: has no {task_id}, which may stand in request.body instead"),
        ("/jobs/{task_id}", "jobs/{task_id}", "request.status_path: Expected `str` matching regex"),
        ("[envelope]", 'body = { id = "{task_id}" }\n[envelope]', 'request.body: needs method = "POST"'),
        ("[envelope]", 'method = "PUT"\n[envelope]', "request.method: Invalid enum value 'PUT'"),
        ("[envelope]", '[envelope]\nkinds = { "7" = "odd" }', "envelope.kinds['7']: Invalid enum value 'odd'"),
        ("[envelope]", '[envelope]\nkinds = { "200" = "broken" }', "envelope.kinds: ['200'] cannot be errors and ok"),
        ("[envelope]", "[envelope]\nok = [[]]", "envelope.ok[0]: Expected `int | str`, got `array`"),
        ("[envelope]", '[envelope]\nsuccess = "a b"', "envelope.success: Expected `str` matching regex"),
        ('fail = ["no"]', 'fail = ["YES"]\nignore_case = true', "states.ignore_case: some of the values differ in "),
        ('fail = ["no"]', 'fail = ["no"]\nfail_if_set = ["a b"]', "states.fail_if_set[0]: Expected `str` matching"),
        ('fail = ["no"]', 'fail = ["no"]\nfail_if_false = "a"', "states.fail_if_false: Expected `array`, got `str`"),
        ('task_id = "id"', "task_id_may_be_part = true", "fields.task_id_may_be_part: needs fields.task_id"),
        ('task_id = "id"', 'create_time = ["a", "b c"]', "fields.create_time: ['b c'] cannot be paths; "),
        ("[limits]", '[units]\nzone = "Mars"\n[limits]', "units.zone: Expected `str` matching regex"),
        ("[limits]", '[units]\nzone = "+08:00"\n[limits]', 'units.zone: only times with time = "iso" have a zone'),
        ("[envelope]", 'auth_header = "x key"\n[envelope]', "request.auth_header: Expected `str` matching regex"),
        ("[envelope]", 'headers = { "a b" = "c" }\n[envelope]', "request.headers['a b']: Expected `str` matching"),
        ("[envelope]", 'headers = { X-A = "b\\n" }\n[envelope]', "request.headers['X-A']: Expected `str`"),
        (
            "[envelope]",
            'headers = { Authorization = "me" }\n[envelope]',
            "request.headers: authorization carries the key; see request.auth_header",
        ),
        (
            "[limits]",
            '[callback]\nsuccess = { a = "{b..c}" }\nfail = {}\n[limits]',
            "callback.success: '{b..c}' is no path between braces",
        ),
        (
            "[limits]",
            '[callback]\nsuccess = {}\nfail = { a = ["{b.*}", "x"] }\n[limits]',
            "callback.fail: an array whose item stands for each of another's has that item alone",
        ),
        ("[limits]", "[callback]\nsuccess = {}\n[limits]", "callback: Object missing required field `fail`"),
        ("[limits]", "[callback]\nsuccess = []\nfail = {}\n[limits]", "callback.success: Expected `object`"),
        ('name = "mine"', 'name = "mine"\nnmae = 1', "Object contains unknown field `nmae`"),
        ('name = "mine"', "name = 1", "name: Expected `str`, got `int`"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, problem: str) -> None:
    """A profile that cannot be used is refused with the file, the key and the reason."""
    assert parse_profile(RIGHT, "mine.toml").name == "mine"
    assert old in RIGHT
    with pytest.raises(ConfigError) as caught:
        parse_profile(RIGHT.replace(old, new, 1), "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: {problem}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('code = "code"', 'success = "ok"', ".synthesize: needs envelope.code"),
        ('["yes"]\nfail = ["no"]', "[3]\nfail = [4]", ".synthesize: needs states that are words"),
        ('["yes"]\nfail = ["no"]', "[true]\nfail = [false]", ".synthesize: needs states that are words"),
        ('fail = ["no"]', 'fail = ["waiting"]', ".synthesize: a running task is told as waiting, "),
        ('fail = ["no"]', 'fail = ["no"]\nnot_known = ["waiting"]', ".synthesize: a running task is told as waiting, "),
        ('fail = ["no"]', 'fail = ["Waiting"]\nignore_case = true', ".synthesize: a running task is told as waiting, "),
        ('fail = ["no"]', 'fail = ["no"]\nfail_if = "error"', ".synthesize: an end is told by the state alone, "),
        ('fail = ["no"]', 'fail = ["no"]\nsuccess_if = "url"', ".synthesize: an end is told by the state alone, "),
        ("[limits]", '[units]\ntime = "s"\n[limits]', ".synthesize: needs [units] that are milliseconds"),
        ("[limits]", '[units]\ntime = "iso"\n[limits]', ".synthesize: needs [units] that are milliseconds"),
        ("[limits]", '[units]\ncost = "s"\n[limits]', ".synthesize: needs [units] that are milliseconds"),
        ('task_id = "id"', 'task_id = "jobs.0.id"', ": ['jobs.0.id'] cannot be written: a number"),
        ('task_id = "id"', 'result = ["output.0", "output"]', ": ['output.0'] cannot be written: a number"),
        ('task_id = "id"', 'task_id = "data.id"\nresult = "data"', ": ['data'] cannot be written: other members"),
        ('task_id = "id"', 'root = "data"\nresult = "data"', ": ['data'] cannot be written: other members"),
        ('task_id = "id"', 'root = "data.job"\nfail_msg = "data"', ": ['data'] cannot be written: other members"),
    ],
)
def test_what_cannot_be_answered_as_the_api_does(old: str, new: str, problem: str) -> None:
    """A profile is refused whose answers the gateway would make up; where it only passes them on it can be used."""
    assert old in RIGHT
    text = RIGHT.replace(old, new, 1)
    assert parse_profile(text, "mine.toml").proxy is not None
    with pytest.raises(ConfigError) as caught:
        parse_profile(text + "synthesize = true\n", "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: proxy{problem}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('state = "runs"', 'state = "yes"', "needs a state at state that does not end the task"),
        ('state = "runs"', 'state = "lost"', "needs a state at state that does not end the task"),
        ('state = "runs"', 'other = "runs"', "needs a state at state that does not end the task"),
        ('id = "{taskId}"', 'id = "t"', 'needs "{taskId}" at id'),
        ('id = "{taskId}"', 'id = "{taskId}"\nat = "{a..b}"', "'{a..b}' is no path between braces"),
        ("[proxy]", "[proxy]\nsynthesize = true", "synthesize and created_is_record tell that already"),
        ("[proxy]", "[proxy]\ncreated_is_record = true", "synthesize and created_is_record tell that already"),
    ],
)
def test_what_a_new_task_cannot_be_told_as(old: str, new: str, problem: str) -> None:
    """A profile is refused by which a task would be told as ended that has just begun, or as another one."""
    text = RIGHT.replace('fail = ["no"]', 'fail = ["no"]\nnot_known = ["lost"]')
    text += '[proxy.created_record]\nid = "{taskId}"\nstate = "runs"\n'
    for nested in (text, text.replace('"state"', '"a.b.state"').replace('"id"', '"a.b.id"')):
        # The record is the object at the root.
        rooted = nested.replace("[fields]", '[fields]\nroot = "a.b"') if nested != text else nested
        assert parse_profile(rooted, "mine.toml").proxy is not None
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse_profile(text.replace(old, new, 1), "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: proxy.created_record: {problem}")


def test_case_does_not_make_a_new_tasks_state_another() -> None:
    """Where the API's words are the same in capitals and in small letters."""
    text = RIGHT.replace('fail = ["no"]', 'fail = ["no"]\nignore_case = true')
    with pytest.raises(ConfigError, match="does not end the task"):
        parse_profile(text + '[proxy.created_record]\nid = "{taskId}"\nstate = "NO"\n', "mine.toml")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[envelope]", '[envelope]\nmessage = ["errors.0.text", "text"]', "['errors.0.text'] cannot be written: a "),
        ("[envelope]", '[envelope]\nmessage = ["code.text"]', "['code'] cannot be written: other members stand below"),
        ('task_id = "id"', 'root = "code"', "['code'] cannot be written: other members stand below"),
        (
            "[envelope]",
            '[envelope]\nmessage = ["data"]\nretry_after = "data.wait"',
            "['data'] cannot be written: other members stand below",
        ),
        (
            'record_path = "/jobs"\nrecord_param = "id"\n',
            "",
            None,
        ),
        (
            '"/jobs/{task_id}"\n[envelope]',
            '"/jobs"\nmethod = "POST"\nbody = { id = "{task_id}" }\n[envelope]',
            "needs record_path and record_param, as tasks are not read with GET",
        ),
        ("/jobs/{task_id}", "/jobs?filter=id:{task_id}", "needs record_path and record_param, as tasks are not read "),
        ("/jobs/{task_id}", "/{x}/{task_id}", "'/{x}/{task_id}' of request.status_path cannot be served: {task_id} "),
        ("/jobs/{task_id}", "/{task_id}/{task_id}", "'/{task_id}/{task_id}' of request.status_path cannot be served"),
    ],
)
def test_a_proxy_that_cannot_stand_in(old: str, new: str, problem: str | None) -> None:
    """A profile is refused whose calls or errors the gateway cannot serve; without its [proxy] it can be used."""
    own = 'record_path = "/jobs"\nrecord_param = "id"\n'
    text = RIGHT.replace(old, new, 1) if old == own else RIGHT.replace(own, "").replace(old, new, 1)
    assert old in RIGHT
    if problem is None:
        assert parse_profile(text, "mine.toml").proxy is not None
        return
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: proxy: {problem}")
    assert parse_profile(text.partition("[proxy]")[0], "mine.toml").proxy is None


def test_how_clients_read_a_task() -> None:
    """By the call that the profile polls by, where it names no other; the id is in the path or a parameter."""

    def read(status_path: str, **more: Any) -> RecordCall | None:
        return record_call(Request(status_path=status_path, **more), Proxy(create_path="/a", created_id="id"))

    assert read("/jobs/{task_id}") == ("/jobs/{task_id}", None, "/jobs/{task_id}")
    assert read("/v1/{task_id}", task_id_has_slashes=True) == ("/v1/{task_id:path}", None, "/v1/{task_id}")
    assert read("/jobs?a=b&id={task_id}") == ("/jobs", "id", "/jobs?a=b&id={task_id}")
    assert read("/jobs?id=x{task_id}") is read("/jobs/{task_id}", method="POST") is read("/jobs") is None
    own = Proxy(create_path="/a", created_id="id", record_path="/job", record_param="job id")
    assert record_call(Request(status_path="/jobs"), own) == ("/job", "job id", "/job?job%20id={task_id}")


def test_no_token_goes_on() -> None:
    """It may stand where the API's key does, or in Authorization, whatever header the API has for its key."""
    text = RIGHT.replace("[envelope]", 'auth_header = "X-Key"\n[envelope]')
    for name in ("x-key", "X-KEY", "authorization"):
        with pytest.raises(ConfigError) as caught:
            parse_profile(text.replace("[proxy]", f'[proxy]\nheaders = ["{name}"]'), "mine.toml")
        assert caught.value.problems[0].startswith(f"mine.toml: proxy.headers: ['{name}'] are the gateway's own ")


def test_one_word_for_both_ends_needs_what_tells_them_apart() -> None:
    """One of success_if and fail_if is not enough: the other end would be any answer with the word."""
    text = RIGHT.partition("[proxy]")[0].replace('fail = ["no"]', 'fail = ["yes"]\nfail_if = "error"')
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith("mine.toml: states: ['yes'] cannot mean both success and fail")


def test_absent_states_need_the_tasks_id() -> None:
    """Without an id to go by, any answer at all would mean that the task runs."""
    text = RIGHT.replace('fail = ["no"]', 'fail = ["no"]\nmay_be_absent = true').replace('task_id = "id"', "")
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith("mine.toml: states.may_be_absent: needs fields.task_id")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [
                ('name = "mine"', 'name = "mine"\nnmae = 1'),
                ("/jobs/{task_id}", "https://evil/x"),
                ("[envelope]", 'method = "PUT"\nauth_header = "a b"\nbogus = 1\n[envelope]'),
                ('["no"]', '["yes"]'),
            ],
            [
                "request.status_path: Expected `str` matching regex",
                "request.method: Invalid enum value 'PUT'",
                "request.auth_header: Expected `str` matching regex",
                "request: Object contains unknown field `bogus`",
                "Object contains unknown field `nmae`",
                "states: ['yes'] cannot mean both success and fail",
            ],
        ),
        (
            [("[envelope]", 'headers = { "a b" = "c", X-A = "\\n", X-B = "b" }\n[envelope]\nkinds = { "7" = "odd" }')],
            [
                "request.headers['a b']: Expected",
                "request.headers['X-A']: Expected",
                "envelope.kinds['7']: Invalid enum value 'odd'",
            ],
        ),
        (
            [("window_s = 1", "window = 1"), ('["yes"]', '["yes", []]'), ('created_id = "id"', "pass = [1]")],
            [
                "states.success[1]: Expected",
                "limits.query[0]: Object contains unknown field `window`",
                "limits.query[0]: Object missing required field `window_s`",
                "proxy.pass[0]: Expected",
                "proxy: Object missing required field `created_id`",
            ],
        ),
        (
            [("[states]", "[stats]")],
            ["Object contains unknown field `stats`", "Object missing required field `states`"],
        ),
        (
            [("[envelope]", "body = 1\n[envelope]"), ("{task_id}", "id"), ("[limits]", "[units]\nzone = 1\n[limits]")],
            ["request.body: Expected `object | null`", "units.zone: Expected `str | null`"],
        ),
        (
            [('task_id = "id"', 'result = 1\nfail_msg = "a b"\ntask_id_may_be_part = true')],
            [
                "fields.result: Expected",
                "fields.fail_msg: ['a b'] cannot be paths",
                "fields.task_id_may_be_part: needs fields.task_id",
            ],
        ),
    ],
    ids=["all over", "tables", "lists", "a section", "no guesses", "paths"],
)
def test_all_mistakes_are_told_together(changes: list[tuple[str, str]], expected: list[str]) -> None:
    """Those of one section, keys too few or too many, and what contradicts what could be read; nothing is guessed."""
    text = RIGHT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    assert len(caught.value.problems) == len(expected)
    for line, beginning in zip(caught.value.problems, expected, strict=True):
        assert line.startswith(f"mine.toml: {beginning}")


def test_mistakes_of_several_sections_are_told_together() -> None:
    """Nobody has to start three times to hear of three mistakes."""
    text = RIGHT.replace("https://", "ftp://").replace("limit = 2", "limit = 0").replace('path = "state"', "path = 1")
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    assert [line.split(": ")[1] for line in caught.value.problems] == [
        "base_url",
        "states.path",
        "limits.query[0].limit",
    ]


# Folders.


def test_later_folders_win(tmp_path: Path) -> None:
    """An operator's folder adds profiles, with a BOM or without, and replaces shipped ones of the same name."""
    (tmp_path / "mine.toml").write_text(RIGHT, "utf-8-sig")
    (tmp_path / "kie.toml").write_text(RIGHT.replace('"mine"', '"kie"'))
    (tmp_path / "notes.txt").write_text("not a profile")
    profiles, problems = read_profiles([config_dir() / "upstreams", tmp_path])
    assert problems == []
    assert profiles.keys() == {*NAMES, "mine"}
    assert profiles["kie"].base_url == "https://api.example.com"


def test_mistakes_of_all_files_are_told_together(tmp_path: Path) -> None:
    """Every file with a mistake is named, by its path, with what is wrong."""
    (tmp_path / "a.toml").write_text(RIGHT)
    (tmp_path / "b.toml").write_text("name = ")
    (tmp_path / "c.toml").write_bytes(b"\xff")
    (tmp_path / "d.toml").mkdir()
    (tmp_path / "mine.toml").write_text(RIGHT.replace("limit = 2", "limit = 0"))
    profiles, problems = read_profiles([tmp_path, tmp_path / "nowhere"])
    assert profiles.keys() == {"mine"}
    first, second, third, fourth, fifth, sixth = problems
    assert first == f"{tmp_path}/a.toml: name: got 'mine'; write the name of the file, 'a'"
    assert second.startswith(f"{tmp_path}/b.toml: not valid TOML: ")
    assert third == f"{tmp_path}/c.toml: it is not a text file in UTF-8"
    assert fourth == f"{tmp_path}/d.toml: Is a directory"
    assert fifth == f"{tmp_path}/mine.toml: limits.query[0].limit: Expected `int` >= 1"
    assert sixth == (
        f"GATEWAY_PROFILES: got '{tmp_path}/nowhere'; there is no such folder: name a folder that this user may read"
    )


def test_a_folder_that_cannot_be_listed_names_its_setting(tmp_path: Path) -> None:
    """Whatever keeps it from being read: here it is a file, or its name is longer than any."""
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "Not a directory"), (tmp_path / ("a" * 300), "File name too long")):
        _, (problem,) = read_profiles([folder])
        assert problem.startswith(f"GATEWAY_PROFILES: got '{folder}'; {why}: ")


def test_hidden_files_are_no_profiles(tmp_path: Path) -> None:
    """What macOS and editors leave beside a profile is passed over: a copy's attributes, a lock that leads nowhere."""
    (tmp_path / "mine.toml").write_text(RIGHT)
    (tmp_path / "._mine.toml").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".#mine.toml").symlink_to("me@host.1234")
    profiles, problems = read_profiles([tmp_path])
    assert (profiles.keys(), problems) == ({"mine"}, [])
