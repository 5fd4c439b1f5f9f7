"""The API's description against OpenAPI 3.1's own rules and against what is really served."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, cast, get_args

import jsonschema_rs
import msgspec
import pytest
from starlette.routing import Match, Route

from gateway.api.callbacks import Callbacks
from gateway.api.mounts import OWN, Mounts
from gateway.api.openapi import document
from gateway.api.operations import Operations
from gateway.api.problems import problem
from gateway.api.proxied import Proxied
from gateway.api.proxy import UpstreamProxy
from gateway.api.registering import Registering
from gateway.api.routing import Call, routes
from gateway.api.schema import CallbackRequest, RedeliveriesRequest
from gateway.api.table import table
from gateway.api.tasks import Tasks
from gateway.api.views import AttemptView, CallbackView, TaskView
from gateway.config.profile import Profile, listed
from gateway.config.profilefile import config_dir, read_profiles
from gateway.core import errors
from gateway.core.clock import SystemClock
from gateway.core.telemetry import Metrics
from gateway.upstream.answer import AbandonReason
from gateway.upstream.api import Upstream
from tests.jsonschema import faults
from tests.manual import page

PROFILES = read_profiles([config_dir() / "upstreams"])[0]
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
OPERATION = {
    "operationId", "summary", "description", "parameters", "requestBody", "responses", "security", "tags",
}  # fmt: skip
SCHEMA_KEYWORDS = {
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "default", "description", "enum", "examples", "format",
    "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "oneOf", "pattern", "properties",
    "required", "title", "type",
}  # fmt: skip


def calls(*proxied: str) -> list[Call]:
    """Return the table of a gateway that has nothing behind it; the first of the upstreams is its default one."""
    nothing = cast(Any, None)
    registering = Registering(
        nothing, nothing, Metrics(), check_url=nothing, first_poll_at={"x": nothing}, default_upstream="x"
    )
    proxies = [_proxy(PROFILES[name]) for name in proxied]
    return table(
        registering,
        Callbacks(nothing, nothing, ()),
        Tasks(nothing, nothing, nothing, ()),
        Operations(nothing, nothing, nothing, unhealthy=nothing, troubles=nothing, paused=nothing),
        Mounts(proxies, proxies[0] if proxies else None).all,
    )


def _proxy(profile: Profile) -> UpstreamProxy:
    nothing = cast(Any, None)
    upstream = Upstream(profile, nothing, SystemClock(), base_url=profile.base_url, api_key=None)
    proxied = Proxied(
        registry=nothing, clock=nothing, metrics=nothing, upstream=upstream, key=nothing, timetable=nothing,
        poller_wake=nothing, draining=nothing, polls_here=nothing, recheck_s=15.0, has_replicas=False,
    )  # fmt: skip
    return UpstreamProxy(proxied, nothing, callback_format=nothing, check_url=nothing, watch_s=60.0)


CALLS = calls("aigptimage")
DOCUMENT = document(CALLS)


def served() -> set[tuple[str, str]]:
    """Return path and method of everything that the API serves; HEAD goes without saying."""
    return {
        (mount + nameless(route.path), method.lower())
        for mount, route in leaves(routes(CALLS))
        for method in route.methods or ()
        if method != "HEAD"
    }


def leaves(served_by: Iterable[Any], mount: str = "") -> Iterator[tuple[str, Route]]:
    """Yield every route, those below a mount too, and what stands before its path."""
    for route in served_by:
        if isinstance(route, Route):
            yield mount, route
        else:
            yield from leaves(route.routes, route.path)


def nameless(path: str) -> str:
    """Return a path without its parameters' names and converters, which are the router's own business."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, method): body for path, item in DOCUMENT["paths"].items() for method, body in item.items()}


def nodes(value: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of the document and where it stands."""
    if isinstance(value, dict):
        yield where, value
        for name, inner in value.items():
            yield from nodes(inner, f"{where}/{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from nodes(inner, f"{where}/{index}")


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of the document, those inside others included."""

    def inside(where: str, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        assert isinstance(schema, dict), where
        yield where, schema
        for name, inner in schema.get("properties", {}).items():
            yield from inside(f"{where}/properties/{name}", inner)
        if "items" in schema:
            yield from inside(f"{where}/items", schema["items"])
        for keyword in ("anyOf", "oneOf", "allOf"):
            for index, inner in enumerate(schema.get(keyword, [])):
                yield from inside(f"{where}/{keyword}/{index}", inner)

    for name, schema in DOCUMENT["components"]["schemas"].items():
        yield from inside(f"components/{name}", schema)
    for where, node in nodes(DOCUMENT["paths"]):
        if "schema" in node:
            yield from inside(f"{where}/schema", node["schema"])


def test_exactly_what_is_served_is_described() -> None:
    """Every route stands in the document with its methods, and the document promises nothing else."""
    assert {(nameless(path), method) for path, method in operations()} == served()


def test_the_manual_names_every_call() -> None:
    """Those of the gateway's own, and of each only statuses that it may answer."""
    rows = re.findall(r"^\| `([A-Z]+) (/v1/[^`? ]+).*?\| (.*) \|$", page("api"), re.MULTILINE)
    named = {(path, method.lower()): told for method, path, told in rows}
    assert len(named) == len(rows)
    assert named.keys() == {(path, method) for path, method in operations() if path.startswith("/v1/")}
    for call, told in named.items():
        assert set(re.findall(r"`(\d{3})`", told)) <= operations()[call]["responses"].keys(), call


def test_every_reason_of_an_abandoned_task_is_told() -> None:
    """Those that a webhook may give and no other, in the document and in the manual's words about webhooks."""
    told = DOCUMENT["components"]["schemas"]["TaskView"]["properties"]["outcome"]["description"]
    assert told.split(" is one of ")[1] == "timeout, unreadable, refused, not_found."
    table = page("webhook").partition("| `reason` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ["timeout", "unreadable", "refused", "not_found"]
    assert get_args(AbandonReason) == ("timeout", "unreadable", "refused", "not_found")


def test_it_is_json() -> None:
    """The document is plain JSON, and the same each time."""
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT)) == DOCUMENT == document(calls("aigptimage"))


def test_the_frame_of_the_document() -> None:
    """Version, title and the other fixed fields are those of OpenAPI 3.1."""
    assert re.fullmatch(r"3\.1\.\d", DOCUMENT["openapi"])
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    frame = {"openapi", "info", "servers", "security", "paths", "webhooks", "components", "tags", "externalDocs"}
    assert DOCUMENT.keys() <= frame
    assert DOCUMENT["components"].keys() <= {"schemas", "examples", "responses", "parameters", "securitySchemes"}
    for name in DOCUMENT["components"]["schemas"]:
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)


@pytest.mark.parametrize(("path", "method"), sorted(operations()))
def test_an_operation_is_well_formed(path: str, method: str) -> None:
    """An operation has answers, each with a description, and only fields that OpenAPI knows."""
    operation = operations()[path, method]
    assert path.startswith("/")
    assert method in METHODS
    assert operation.keys() <= OPERATION
    assert operation["summary"]
    assert operation["description"]
    assert operation["responses"]
    for status, response in operation["responses"].items():
        assert re.fullmatch(r"[1-5]\d\d|default", status)
        assert response["description"]
        assert response.keys() <= {"description", "headers", "content", "links"}
    for media_types in [response.get("content", {}) for response in operation["responses"].values()]:
        assert all(re.fullmatch(r"[a-z]+/[a-z+]+", media_type) for media_type in media_types)
    if "requestBody" in operation:
        assert method in {"post", "put", "patch"}
        assert operation["requestBody"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize(("path", "method"), sorted(operations()))
def test_an_operations_parameters(path: str, method: str) -> None:
    """Each part of a path is declared and required, and no parameter stands twice."""
    parameters = operations()[path, method].get("parameters", [])
    for parameter in parameters:
        assert parameter.keys() <= {"name", "in", "required", "schema", "description", "example"}
        assert parameter["in"] in {"path", "query", "header"}
        assert parameter["in"] != "path" or parameter["required"] is True
    in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", path))
    named = [(parameter["in"], parameter["name"]) for parameter in parameters]
    assert len(named) == len(set(named))


def test_names_for_generated_clients() -> None:
    """Each operation and webhook has a name of its own that is one in any language, and a tag that is explained."""
    webhooks = [item["post"] for item in DOCUMENT["webhooks"].values()]
    named = [operation["operationId"] for operation in (*operations().values(), *webhooks)]
    assert len(named) == len(set(named)) == len(CALLS) + len(DOCUMENT["webhooks"])
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name) for name in named)
    tags = [tag["name"] for tag in DOCUMENT["tags"]]
    assert len(tags) == len(set(tags))
    assert all(tag["description"] for tag in DOCUMENT["tags"])
    assert {tag for operation in (*operations().values(), *webhooks) for tag in operation["tags"]} == set(tags)


def test_webhooks_are_described() -> None:
    """Each event, and the other format, has its headers, an example, and what a receiver's answers mean."""
    for event, item in DOCUMENT["webhooks"].items():
        assert item.keys() == {"post"}
        operation = item["post"]
        assert operation.keys() <= OPERATION
        assert operation["security"] == []
        headers = [parameter["name"] for parameter in operation["parameters"] if parameter["required"]]
        assert headers == ["webhook-id", "webhook-timestamp", "webhook-signature"]
        optional = [parameter["name"] for parameter in operation["parameters"] if not parameter["required"]]
        traced = ["traceparent", "tracestate"] * (event.startswith("task.") or event == "record")
        assert optional == traced + ["x-webhook-timestamp", "x-webhook-signature"] * (event == "record")
        assert all(parameter["in"] == "header" and parameter["description"] for parameter in operation["parameters"])
        assert operation["responses"].keys() == {"2XX", "410", "default"}
        content = operation["requestBody"]["content"]["application/json"]
        assert list(content["examples"]) == (["success", "fail", "abandoned"] if event == "record" else [event])
        for example in content["examples"].values():
            assert example["value"].get("type", "record") == event
            assert list(faults(example["value"], content["schema"], DOCUMENT["components"]["schemas"])) == []


def test_examples_are_of_their_schema() -> None:
    """What is sent has an example, and what is answered; each is what its schema says."""
    known = DOCUMENT["components"]["schemas"]
    with_example = {name for name, schema in known.items() if "examples" in schema}
    bodies = [operation.get("requestBody", {}) for operation in operations().values()]
    bodies += [response for operation in operations().values() for response in operation["responses"].values()]
    sent = {media["schema"].get("$ref") for body in bodies for media in body.get("content", {}).values()}
    assert {f"#/components/schemas/{name}" for name in with_example} >= sent - {None}
    for name in with_example:
        for example in known[name]["examples"]:
            assert list(faults(example, known[name], known)) == []


def given() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield every example beside a schema of its own: where it stands, the value and the schema."""
    for where, node in nodes({"paths": DOCUMENT["paths"], "webhooks": DOCUMENT["webhooks"]}):
        if "schema" not in node:
            continue
        if "example" in node:
            yield where, node["example"], node["schema"]
        for name, example in node.get("examples", {}).items():
            if "$ref" in example:
                example = DOCUMENT["components"]["examples"][example["$ref"].rpartition("/")[2]]
            yield f"{where}/{name}", example["value"], node["schema"]


def test_a_validator_takes_every_example() -> None:
    """Those of parameters, bodies and errors: what is copied into a command is taken."""
    found = list(given())
    assert len(found) > 60
    for where, value, schema in found:
        whole = {**schema, "components": DOCUMENT["components"]}
        validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        assert [error.message for error in validator.iter_errors(value)] == [], where


def test_every_request_has_an_example() -> None:
    """Of the gateway's own calls: bodies, and what their paths need, can be copied as they stand."""
    for (path, method), operation in operations().items():
        if path.startswith(("/api/", "/u/")):
            continue
        for parameter in operation["parameters"]:
            assert parameter["description"]
            assert not parameter["required"] or parameter["example"], (path, method)
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"]


def test_every_code_is_told() -> None:
    """The schema of a problem has those that there are, and each answer those that it may have."""
    codes = set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    raised = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    assert codes == raised
    for example in DOCUMENT["components"]["examples"].values():
        assert example["value"]["code"] in codes
    for operation in operations().values():
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                named = {name.rpartition("/")[2] for name in content.get("examples", {})}
                values = [DOCUMENT["components"]["examples"][name]["value"] for name in named]
                assert all(str(value["status"]) == status for value in values)
                assert media_type != "application/problem+json" or values or "NotReady" in str(content)


def test_headers_that_answers_have() -> None:
    """When to try again, how to prove who asks, and where what was made is."""
    for (path, _), operation in operations().items():
        own = not path.startswith(("/api/", "/u/"))
        for status, response in operation["responses"].items():
            headers = response.get("headers", {})
            assert ("Retry-After" in headers) == (status in ("429", "503"))
            assert ("WWW-Authenticate" in headers) == (status == "401")
            assert all(header["description"] and header["schema"] for header in headers.values())
            assert not own or all(header["required"] for header in headers.values())
    made = operations()["/v1/callbacks", "post"]["responses"]
    assert made["200"]["headers"].keys() == made["201"]["headers"].keys() == {"Location"}


def test_links_lead_to_calls() -> None:
    """What can be asked of a callback next: each names a call, and parameters that it has."""
    by_id = {operation["operationId"]: operation for operation in operations().values()}
    linked = [r["links"] for one in by_id.values() for r in one["responses"].values() if "links" in r]
    assert len(linked) == 4
    for links in linked:
        for link in links.values():
            named = {parameter["name"] for parameter in by_id[link["operationId"]]["parameters"]}
            assert link["parameters"].keys() <= named


def test_what_only_the_gateway_knows() -> None:
    """The names that a callback may give, and what stands before all paths."""
    told = document(CALLS, ["kie", "aigptimage"], "/gateway")
    upstream = told["components"]["schemas"]["CallbackRequest"]["properties"]["upstream"]
    assert upstream["anyOf"][0]["enum"] == ["aigptimage", "kie"]
    assert upstream["anyOf"][1] == {"type": "null"}
    assert told["servers"] == [{"url": "/gateway"}]
    assert DOCUMENT["servers"] == [{"url": "/"}]


def test_every_reference_leads_somewhere() -> None:
    """Nothing refers to a schema that is not there, and no schema is left that nothing refers to."""
    references = {node["$ref"] for _, node in nodes(DOCUMENT) if "$ref" in node}
    parts = ((kind, DOCUMENT["components"][kind]) for kind in ("schemas", "examples"))
    assert references == {f"#/components/{kind}/{name}" for kind, named in parts for name in named}


def test_every_schema_is_json_schema() -> None:
    """Schemas use known keywords with values of the right kind, and require only members that they have."""
    found = dict(schemas())
    assert len(found) > 60
    for where, schema in found.items():
        assert schema.keys() <= SCHEMA_KEYWORDS, where
        types = schema.get("type", [])
        assert set([types] if isinstance(types, str) else types) <= TYPES, where
        assert set(schema.get("required", [])) <= schema.get("properties", {}).keys(), where
        if "enum" in schema:
            assert schema["enum"], where


def test_patterns_are_read_by_other_languages() -> None:
    """A pattern keeps to what JSON Schema's regular expressions (ECMA-262) have: \\A, \\Z and (?P are Python's own."""
    patterns = [schema["pattern"] for _, schema in schemas() if "pattern" in schema]
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        assert not re.search(r"\\[AZzGQE]|\(\?[P#<>a-z]", pattern), pattern


@pytest.mark.parametrize("wire", [CallbackRequest, CallbackView, RedeliveriesRequest, TaskView, AttemptView])
def test_a_schema_has_the_members_of_its_type(wire: type[msgspec.Struct]) -> None:
    """A schema names the members as they are on the wire, and requires those without a default."""
    schema = DOCUMENT["components"]["schemas"][wire.__name__]
    fields = msgspec.structs.fields(wire)
    assert list(schema["properties"]) == [field.encode_name for field in fields]
    assert schema["required"] == [field.encode_name for field in fields if field.required]


def test_requests_refuse_what_they_do_not_know() -> None:
    """A client's generated code learns that unknown members are refused; only the upstream knows those of its own."""
    for (path, method), operation in operations().items():
        if "requestBody" not in operation or path.startswith(("/api/", "/u/")):
            continue
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        if "$ref" in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert schema["additionalProperties"] is False, (path, method)


def test_an_upstream_without_calls_adds_none() -> None:
    """The upstream's own calls stand in the document only where the gateway serves them."""
    assert [path for path in document(calls())["paths"] if path.startswith(("/api/", "/u/"))] == []


def test_a_problem_is_what_the_schema_says() -> None:
    """The documents that errors become have the members that the schema promises."""
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    told = problem(errors.InvalidRequest("taskId: is missing", errors=[("taskId", "is missing")]))
    assert told.keys() == schema["properties"].keys()
    assert told["errors"][0].keys() == DOCUMENT["components"]["schemas"]["FieldError"]["properties"].keys()
    assert problem(errors.NotFound("no")).keys() == set(schema["required"])


def test_every_error_is_a_problem() -> None:
    """What needs a token names 401, every error is a problem or an envelope, and the rest says it is public."""
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name for choice in DOCUMENT["security"] for name in choice} == set(schemes)
    for (path, _), operation in operations().items():
        if path.startswith(("/api/", "/u/")):
            assert "security" not in operation
            assert {"401", "429", "502", "503", "504"} <= operation["responses"].keys()
            told = {status: set(response.get("content", ())) for status, response in operation["responses"].items()}
            assert told.pop("default") == set()
            assert all(media_types == {"application/json"} for media_types in told.values())
            continue
        if not path.startswith("/v1/"):
            assert operation["security"] == []
            continue
        assert "security" not in operation
        assert {"401", "503"} <= operation["responses"].keys()
        for status, response in operation["responses"].items():
            if status >= "400":
                (media_type, content), *rest = response["content"].items()
                assert (media_type, rest) == ("application/problem+json", [])
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}


@pytest.mark.parametrize("default", sorted(PROFILES))
def test_every_upstream_side_by_side(default: str) -> None:
    """However many there are, a path has one template, a method of it one call, and each call a name of its own."""
    told = document(calls(default, *sorted(PROFILES.keys() - {default})))
    paths = [nameless(path) for path in told["paths"]]
    assert len(paths) == len(set(paths))
    named = [operation["operationId"] for item in told["paths"].values() for operation in item.values()]
    assert len(named) == len(set(named))
    assert all(re.fullmatch(r"[a-z][A-Za-z0-9]*", name) for name in named)
    for path, item in told["paths"].items():
        for operation in item.values():
            in_path = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert in_path == re.findall(r"\{(\w+)\}", path)
    own = {path for path in document(calls())["paths"] if path != "/openapi.json"}
    assert {path for path in told["paths"] if path.startswith(OWN)} == own | {"/openapi.json"}
    for name, profile in PROFILES.items():
        assert profile.proxy is not None
        assert f"/u/{name}{listed(profile.proxy.create_path)[0]}" in told["paths"]
    assert "/u/kie-veo/api/v1/jobs/createTask" in told["paths"], "of the same host"
    assert "/u/runway/api/v1/jobs/createTask" not in told["paths"]


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_no_call_stands_before_another(name: str) -> None:
    """Whatever stands for the parts that are not fixed, a request is served by the row of its path."""
    rows = calls(name, *sorted(PROFILES.keys() - {name}))
    served_by = list(leaves(routes(rows)))
    for row in rows:
        path = re.sub(r"\{[^}]*\}", "x", row.path)
        scope = {"type": "http", "method": row.method, "path": path, "headers": []}
        at_mount = [route for mount, route in served_by if mount == row.mount]
        found = next(route for route in at_mount if route.matches(scope)[0] is Match.FULL)
        assert found.app._calls[row.method].id == row.id, path  # type: ignore[attr-defined]


def test_a_405_tells_of_its_own_path() -> None:
    """Where a path matches another one's template, too, what is allowed is what the document says of it."""
    rows = calls(*sorted(PROFILES))
    served_by = list(leaves(routes(rows)))
    allowed: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        allowed.setdefault((row.mount, row.path), set()).add(row.method)
    for (mount, path), methods in allowed.items():
        scope = {"type": "http", "method": "OPTIONS", "path": re.sub(r"\{[^}]*\}", "x", path), "headers": []}
        at_mount = [route for at, route in served_by if at == mount]
        first = next(route for route in at_mount if route.matches(scope)[0] is not Match.NONE)
        assert (first.methods or set()) - {"HEAD"} == methods, (mount, path)
