"""The manual's reference pages, made of the code: ``make reference`` writes them, and a test holds them to it.

Owns how each page looks. What is told stands where it is declared: settings in ``gateway.config.settings``, metrics in
``gateway.core.telemetry``, alerts in ``tests.alarms``, log events where they are logged, a profile's keys in
``gateway.config.profile``, errors in ``gateway.core.errors``, ``gateway.api.openapi`` and
``gateway.webhook.explaining``. Of a log event the meaning alone is written in its row by hand, and kept.
"""

import ast
import inspect
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, get_args

import msgspec

from gateway.api import openapi
from gateway.config import profile
from gateway.config.profile import Profile
from gateway.config.settings import CLIENT_KEYS, RECEIVER_KEYS, SETTINGS, UPSTREAM_KEYS, Setting
from gateway.core import errors
from gateway.core.telemetry import Metrics
from gateway.net.guard import Target, _refusal
from gateway.upstream.answer import PollKind
from gateway.webhook.explaining import OF_CALLBACK, SENTENCES
from tests.alarms.page import alerts_page
from tests.manual import MANUAL, ROOT

__all__ = ["LEVELS", "PAGES", "UNTOLD", "events", "is_log", "made"]

LEVELS = ("debug", "info", "warning", "error")
UNTOLD = "…"
_SECRET = "Secret: may stand in a file that `{}` names."
_NONE = "\N{EN DASH}"
_MADE = "It is made of the code: `make reference` writes it anew."
_ANYWHERE = Target("https", "{host}", 443)
_CODE = re.compile(
    r"`[^`]+`"  # as it is
    r"|(?<![\w/.`])(?:GATEWAY_\w+|[a-z]+://[\w./@:…-]*[\w…]|/(?:gateway|readyz|metrics)\b|NAME\.toml|whsec_…"
    r"|Authorization: Bearer|gateway list|\[(?:upstreams|clients)\.NAME\])"
)


def prose(text: str) -> str:
    """Return a sentence of the code as Markdown: what is code stands as such, and no cell ends early."""
    text = " ".join(text.split()).replace("``", "`")
    marked = _CODE.sub(lambda found: found[0] if found[0].startswith("`") else f"`{found[0]}`", text)
    return marked.replace("|", r"\|")


def table(*heads: str, rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["|".join(("", *(f" {cell} " for cell in row), "")) for row in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *(line.replace("|  |", "| |") for line in lines[1:])]) + "\n"


# Settings


def takes(setting: Setting) -> str:
    """Return what a setting takes, as it says to who writes something else; nothing where any text will do."""
    try:
        setting.parse("\0 ?")
    except ValueError as error:
        return f" Takes {prose(str(error).replace('write ', '', 1))}."
    return ""


COUNTS = {"restart": "after a restart", "reload": "at a reload", "command": "with the next command"}


def setting_rows() -> Iterator[tuple[str, ...]]:
    for one in SETTINGS:
        secret = " " + _SECRET.format(f"{one.env}_FILE") if one.secret else ""
        default = f"`{one.default}`" if one.default else _NONE
        yield f"`{one.env}`", f"`{one.key}`", default, COUNTS[one.counts], f"{prose(one.doc)}{takes(one)}{secret}"


def key_rows(keys: Mapping[str, Setting]) -> Iterator[tuple[str, ...]]:
    for name, one in keys.items():
        in_file = one.secret and not name.startswith("token_hash")
        secret = " " + _SECRET.format(f"{name}_file") if in_file else ""
        yield f"`{name}`", f"{prose(one.doc)}{takes(one)}{secret}"


def reloaded_keys() -> str:
    return " and ".join(f"`{name}`" for name, one in UPSTREAM_KEYS.items() if one.counts == "reload")


def settings_page() -> str:
    return f"""\
# Every setting

For who sets it up: each setting with its default, and what it takes.
{_MADE}

[Where settings may stand](configuration.md#where-settings-stand): a variable, or its name without `GATEWAY_` in small
letters in the TOML file. `gateway check-config` reports every mistake. A [reload](operating.md#reload) is a SIGHUP.

## Settings

{table("variable", "in the file", "default", "a new value counts", "meaning", rows=setting_rows())}
## A table for an upstream

What `[upstreams.NAME]` may hold: see [several upstreams](upstreams.md#several-upstreams). Of these a new
{reloaded_keys()} counts at a reload, all else after a restart.

{table("key", "meaning", rows=key_rows(UPSTREAM_KEYS))}
## A table for a client

What `[clients.NAME]` may hold, beside its `headers`: see [several clients](configuration.md#several-clients). All of it
counts at a reload.

{table("key", "meaning", rows=key_rows(CLIENT_KEYS))}
## A table for receivers

What `[[receivers]]` may hold, beside its `headers`: see
[receivers that want something of their own](configuration.md#receivers-that-want-something-of-their-own).

{table("key", "meaning", rows=key_rows(RECEIVER_KEYS))}"""


# Metrics


def metric_rows() -> Iterator[tuple[str, ...]]:
    metrics = Metrics()
    labels = {one._name: one._labelnames for one in vars(metrics).values() if hasattr(one, "_labelnames")}
    labels["gateway_build_info"] = ("version", "python")
    text = b"".join(metrics.render()).decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    for name, kind in sorted(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)):
        of = labels.get(name.removesuffix("_total"), ())
        yield f"`{name}`", kind, ", ".join(f"`{label}`" for label in of), prose(helps[name])


def metrics_page() -> str:
    return f"""\
# Every metric

For who builds dashboards and alarms: what `GET /metrics` shows.
{_MADE}

[Which to watch](telemetry.md#what-to-watch), and [how they are counted](telemetry.md#metrics).

## Metrics

{table("metric", "type", "labels", "meaning", rows=metric_rows())}"""


# Log events


def is_log(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "_log"


@cache
def events() -> Mapping[str, tuple[set[str], set[str]]]:
    """Return the levels and the fields of each event that the package logs."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for path in (ROOT / "gateway").rglob("*.py"):
        module = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_log(node.func.value):
                name = node.args[1 if node.func.attr == "log" else 0]
                assert isinstance(name, ast.Constant), f"{path.name}: {ast.unparse(node)}: the event's name is no text"
                found[name.value][0].update(_levels(node))
                found[name.value][1].update(_fields(node, module))
                if node.func.attr == "exception":
                    found[name.value][1].add("exception")
    return found


def _levels(call: ast.Call) -> set[str]:
    method = call.func.attr
    if method != "log":
        return {"error" if method == "exception" else method}
    named = {word.lower() for word in re.findall(r"logging\.(DEBUG|INFO|WARNING|ERROR)", ast.unparse(call.args[0]))}
    return named or set(LEVELS[2:])  # as the library says: from warnings up


def _fields(call: ast.Call, module: ast.Module) -> Iterator[str]:
    """Yield the fields of a call that logs; those of a dict too that is made in the same module."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield "exception" if keyword.arg == "exc_info" else keyword.arg
            continue
        spread = keyword.value
        name = ast.unparse(spread.func if isinstance(spread, ast.Call) else spread)
        made = [
            node.value
            for scope in ast.walk(module)
            if not isinstance(scope, ast.FunctionDef) or scope.name == name or isinstance(spread, ast.Name)
            for node in ast.walk(scope)
            if (isinstance(node, ast.Return) and getattr(scope, "name", None) == name)
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name)
        ]
        keys = {
            key.value for value in made for part in ast.walk(value) if isinstance(part, ast.Dict) for key in part.keys
        }
        assert keys, f"which fields are in **{ast.unparse(spread)}?"
        yield from ("exception" if key == "exc_info" else key for key in keys)


def event_rows(meanings: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for name, (levels, fields) in sorted(events().items()):
        shown = ", ".join(f"`{field}`" for field in sorted(fields))
        yield f"`{name}`", ", ".join(sorted(levels, key=LEVELS.index)), shown, meanings.get(name, UNTOLD)


def events_page() -> str:
    path = MANUAL / "log-events.md"
    text = path.read_text("utf-8") if path.exists() else ""
    meanings = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|.*\| (.+) \|$", text, re.MULTILINE))
    return f"""\
# Every log event

For who reads the log, or builds alarms on it: each event with its level and its fields.
{_MADE}

[What each line has](telemetry.md#log-events), and what is said once where an outage would say it a thousand times.

## Events

{table("event", "level", "fields", "when", rows=event_rows(meanings))}"""


# A profile's keys


def told(struct: type) -> dict[str, str]:
    """Return what is told of each field of a struct, or member of an enumeration, below it."""
    found = {}
    (body,) = (node.body for node in ast.parse(inspect.getsource(struct)).body if isinstance(node, ast.ClassDef))
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            name = (
                node.target
                if isinstance(node, ast.AnnAssign)
                else node.targets[0]
                if isinstance(node, ast.Assign)
                else None
            )
            if name is not None:
                found[ast.unparse(name)] = str(following.value.value)
    return found


_KINDS = {
    "type_path": "path", "type_paths": "path, or several", "list[type_path]": "paths", "type_header": "name",
    "type_header_value": "text", "type_member": "name", "list[type_member]": "names", "list[type_header]": "names",
    "dict[type_header, type_header_value]": "table", "dict[str, Any]": "table", "list[type_word]": "values",
    "tuple[int | str, ...]": "codes", "dict[str, type_kind]": "table", "tuple[RateWindow, ...]": "windows",
    "bool": "true or false", "str": "text", "float": "number", "list[str]": "list",
}  # fmt: skip


def kind_of(annotation: str) -> str:
    """Return what a key takes, in words."""
    text = re.sub(r" \| None$", "", annotation)
    if (inner := re.fullmatch(r"Annotated\[(.+), msgspec\.Meta\(.+\)\]", text)) is not None:
        text = inner[1]
    if text.startswith("Literal["):
        return " or ".join(f'`"{word}"`' for word in re.findall(r"'([^']+)'", text))
    return _KINDS[text]


def profile_rows(struct: type) -> Iterator[tuple[str, ...]]:
    (body,) = (node.body for node in ast.parse(inspect.getsource(struct)).body if isinstance(node, ast.ClassDef))
    kinds = {ast.unparse(one.target): ast.unparse(one.annotation) for one in body if isinstance(one, ast.AnnAssign)}
    words = told(struct)
    for field in msgspec.structs.fields(struct):
        default = field.default if field.default is not msgspec.NODEFAULT else None
        shown = "must be there" if field.required else _NONE if default in (None, ()) else f"`{json.dumps(default)}`"
        if field.default_factory is not msgspec.NODEFAULT:
            shown = _NONE
        yield f"`{field.encode_name}`", kind_of(kinds[field.name]), shown, prose(words[field.name])


def sections() -> Iterator[tuple[str, type]]:
    """Yield each table of a profile, and the struct that describes it."""
    for field in msgspec.structs.fields(Profile):
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                yield field.encode_name, kind


def profiles_page() -> str:
    parts = []
    for name, struct in sections():
        doc = (inspect.getdoc(struct) or "").partition(": ")[2].strip()
        rows = table("key", "takes", "default", "meaning", rows=profile_rows(struct))
        paragraphs = "\n\n".join(prose(one) for one in doc.split("\n\n"))
        parts.append(f"## `[{name}]`\n\n{paragraphs[0].upper()}{paragraphs[1:]}\n\n{rows}")
    body = "\n".join(parts)
    paths = prose((inspect.getdoc(profile) or "").split("\n\n")[-1])
    top = "`name` is what callbacks name the API by, and what the file is called; `base_url` is where it stands."
    return f"""\
# Every key of a profile

For who describes an API in a [profile of their own](upstreams.md#profiles-of-your-own): each key.
{_MADE}

{top} {paths}

{body}"""


# Errors


def error_classes() -> list[type[errors.RequestError]]:
    every = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RequestError)]
    return sorted(every, key=lambda one: (one.status, one.code))


def error_rows() -> Iterator[tuple[str, ...]]:
    of_status = Counter(one.status for one in error_classes())
    for one in error_classes():
        when = openapi._ERRORS.get(one.status, "") if of_status[one.status] == 1 else ""
        yield str(one.status), f"`{one.code}`", one.title, prose(when if when != f"{one.title}." else "")


def attempt_rows() -> Iterator[tuple[str, ...]]:
    others = {
        "blocked": str(_refusal("range", "{where} is in a range that callbacks may not reach ({why}).", _ANYWHERE)),
        "status": "{where} answered {status}: …, with what to do.",
    }
    names = {name: f"*{name}*" for name in ("where", "why", "status", "host")}
    for reason, text in (SENTENCES | others).items():
        shown = text.format(peer=OF_CALLBACK, timeout_s="`GATEWAY_ATTEMPT_TIMEOUT_S`", **names)
        yield f"`{reason}`", prose(shown)


def poll_rows() -> Iterator[tuple[str, ...]]:
    words = told(PollKind)
    for kind in PollKind:
        yield f"`{kind.value}`", prose(words[kind.name])


def errors_page() -> str:
    return f"""\
# Every error and reason

For who reads an error, a metric's label or a log's field: what each code means.
{_MADE}

What to do about them: [troubleshooting](troubleshooting.md).

## Answers of the API

Each is `application/problem+json` with `code`, `title`, `detail` and, of a 422, the fields in `errors`. A client may be
answered one status for several reasons: `detail` says which.

{table("status", "code", "title", "when", rows=error_rows())}
## Why an attempt failed

`reason` of `attempt.finished` in the log, and what the callback's `lastError` says then. Of a URL no more than host and
port is told.

{table("reason", "what it says", rows=attempt_rows())}
## What a poll came to

The label `kind` of `gateway_polls_total`, and the field of `poll.failed`; `unreadable` is an answer of which nothing
could be read.

{table("kind", "means", rows=poll_rows())}
Why a task was abandoned its webhook says: [`reason`](webhook.md#what-comes)."""


PAGES: Mapping[str, Callable[[], str]] = {
    "settings": settings_page,
    "metrics": metrics_page,
    "alerts": alerts_page,
    "log-events": events_page,
    "profile-keys": profiles_page,
    "errors": errors_page,
}


def made(name: str) -> str:
    """Return a page as the code has it."""
    return PAGES[name]().rstrip("\n") + "\n"


if __name__ == "__main__":
    for page in PAGES:
        (MANUAL / f"{page}.md").write_text(made(page), "utf-8")
