"""An OpenAPI document → the manual's page of every call, as Markdown: what to send, what comes back, and examples.

Owns the words of that page. All that it tells is the document's own, so that neither can say what the other does not.
Pure. Called by ``routes`` with the document of the gateway that runs.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.dashboard.manual.examples import LANGUAGES, ExampleRequest
from gateway.dashboard.manual.markdown import slug

_METHODS = frozenset({"get", "post", "put", "patch", "delete"})
_BODY, _ERROR = "application/json", "application/problem+json"
_LIMITS = (
    ("minLength", "at least {} characters"), ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"), ("maxItems", "at most {} items"),
    ("minimum", "at least {}"), ("maximum", "at most {}"), ("exclusiveMinimum", "more than {}"),
    ("exclusiveMaximum", "less than {}"), ("pattern", "as `{}`"),
)  # fmt: skip


def calls_text(document: Mapping[str, Any], base: str, *, token: bool) -> str:
    """Return the page; ``base`` is where the gateway stands for who reads it, ``token`` whether it asks for one."""
    return "\n\n".join(_Calls(document, base, token=token).parts()) + "\n"


class _Calls:
    def __init__(self, document: Mapping[str, Any], base: str, *, token: bool) -> None:
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]
        self._document = document
        self._base = base
        self._token = token

    def parts(self) -> Iterator[str]:
        yield "# Every call"
        yield (
            "For who writes a client: each call of this gateway, made of its own description at `/openapi.json`. "
            "[The API](api.md) tells what they are for, and what one client may cost. Errors of the gateway's own "
            f"calls are `{_ERROR}`; [every code](errors.md#answers-of-the-api)."
        )
        if self._token:
            yield "The examples read the token from the variable `GATEWAY_TOKEN`."
        for tag in self._document["tags"]:
            its = [one for one in self._operations() if tag["name"] in one[2]["tags"]]
            if not its:
                continue
            yield f"## {tag['name'].capitalize()}\n\n{tag['description']}"
            for method, path, operation in its:
                yield from self._call(method, path, operation)
        yield "## Webhooks\n\nWhat a callback URL is sent: see [the webhook](webhook.md)."
        for name, item in self._document.get("webhooks", {}).items():
            yield from self._webhook(name, item["post"])
        yield "## Bodies"
        for name, schema in self._schemas.items():
            yield from self._schema(name, schema)

    def _operations(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for path, item in self._document["paths"].items():
            for method, operation in item.items():
                if method in _METHODS:
                    yield method.upper(), path, operation

    def _call(self, method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
        yield f"### `{method} {path}`"
        yield f"{operation['summary']}."
        if operation.get("description"):
            yield str(operation["description"])
        if self._token and operation.get("security") == []:
            yield "It needs no token."
        if operation.get("parameters"):
            yield _table("parameter", "in", "takes", "meaning", rows=map(self._parameter, operation["parameters"]))
        body = operation.get("requestBody", {}).get("content", {}).get(_BODY)
        if body is not None:
            yield f"Body: {self._takes(body['schema'])}."
            for one in self._named(body)[1:]:
                yield f"{one['summary']}:\n\n{_fence(_pretty(one['value']))}"
        yield _table("answer", "means", "holds", rows=self._answers(operation["responses"]))
        request = self._request(method, path, operation, body)
        for language, write in LANGUAGES.items():
            yield f"{language}:\n\n{_fence(write(request))}"
        yield from self._answer_shown(operation["responses"])

    def _request(self, method: str, path: str, operation: Mapping[str, Any], body: Any) -> ExampleRequest:
        query = {}
        for one in operation.get("parameters", ()):
            if one["in"] == "path":
                path = path.replace(f"{{{one['name']}}}", str(self._example(one, path)))
            elif one["in"] == "query" and one["required"]:
                query[one["name"]] = str(self._example(one, path))
        good: Mapping[str, Any] = next(
            (one for status, one in operation["responses"].items() if status.startswith("2")), {}
        )
        return ExampleRequest(
            method=method,
            url=self._base + path,
            query=query,
            token=self._token and operation.get("security") != [],
            body=None if body is None else self._example(body, path),
            answers_json=_BODY in good.get("content", {}),
        )

    def _webhook(self, name: str, operation: Mapping[str, Any]) -> Iterator[str]:
        yield f"### `{name}`"
        yield f"{operation['summary']}."
        yield _table("header", "in", "takes", "meaning", rows=map(self._parameter, operation.get("parameters", ())))
        body = operation["requestBody"]["content"][_BODY]
        yield f"Body: {self._takes(body['schema'])}."
        yield _fence(_pretty(self._example(body, name)))
        yield _table(
            "your answer", "means", rows=((f"`{s}`", r["description"]) for s, r in operation["responses"].items())
        )

    def _schema(self, name: str, schema: Mapping[str, Any]) -> Iterator[str]:
        yield f"### {name}"
        if schema.get("description"):
            yield " ".join(str(schema["description"]).replace("``", "`").split())
        if "properties" in schema:
            needed = schema.get("required", ())
            rows = (
                (
                    f"`{key}`" + ("" if key in needed else ", optional"),
                    self._takes(one),
                    _words(one.get("description", "")),
                )
                for key, one in schema["properties"].items()
            )
            yield _table("member", "takes", "meaning", rows=rows)
        else:
            yield f"It is {self._takes(schema)}."
        if schema.get("examples"):
            yield _fence(_pretty(schema["examples"][0]))

    def _parameter(self, one: Mapping[str, Any]) -> tuple[str, ...]:
        schema = one["schema"]
        needed = "" if one["required"] else ", optional"
        said = _words(one.get("description") or schema.get("description", ""))
        return f"`{one['name']}`{needed}", one["in"], self._takes(schema), said

    def _answers(self, responses: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
        for status, one in responses.items():
            holds = [
                self._takes(media["schema"])
                if kind in (_BODY, _ERROR)
                else f"{self._takes(media['schema'])} as `{kind}`"
                for kind, media in one.get("content", {}).items()
                if "schema" in media
            ]
            yield status, _words(one["description"]), " or ".join(holds)

    def _answer_shown(self, responses: Mapping[str, Any]) -> Iterator[str]:
        for status, one in responses.items():
            media = one.get("content", {}).get(_BODY)
            if media is None or not status.startswith("2"):
                continue
            example = self._given(media)
            if example is not None:
                yield f"It answers {status} with\n\n{_fence(_pretty(example))}"
                return

    def _takes(self, schema: Mapping[str, Any]) -> str:
        """Return in words what a schema takes."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return f"[{name}](#{slug(name)})"
        either = schema.get("anyOf") or schema.get("oneOf")
        if either:
            return " or ".join(map(self._takes, either))
        if "const" in schema:
            return f"`{json.dumps(schema['const'])}`"
        if "enum" in schema:
            takes = " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
        else:
            kinds = schema.get("type", "anything")
            takes = " or ".join(self._kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))
        limits = [words.format(schema[key]) for key, words in _LIMITS if key in schema]
        default = [f"default `{json.dumps(schema['default'])}`"] if schema.get("default") is not None else []
        return _words(", ".join((takes, *limits, *default)))

    def _kind(self, kind: str, schema: Mapping[str, Any]) -> str:
        if kind == "array" and "items" in schema:
            return f"list of {self._takes(schema['items'])}"
        if kind == "string" and "format" in schema:
            return f"{schema['format']} as text"
        return {"string": "text", "boolean": "true or false", "array": "list"}.get(kind, kind)

    def _given(self, media: Mapping[str, Any]) -> Any:
        """Return the example that the document gives for a body or a parameter; None where it gives none."""
        if "example" in media:
            return media["example"]
        for one in self._named(media):
            return one["value"]
        schema = self._resolved(media["schema"])
        return next(iter(schema.get("examples", ())), None)

    def _named(self, media: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the examples that the document names, the first of which is shown in each language."""
        named = self._document["components"].get("examples", {})
        every = media.get("examples", {}).values()
        return [named[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in every]

    def _example(self, media: Mapping[str, Any], path: str) -> Any:
        """Return an example of a body or a parameter, a made one where the document gives none."""
        given = self._given(media)
        if given is not None:
            return given
        if media.get("in") == "path":
            # A name in a path is a member of what the gateway tells of such a thing.
            of = "TaskView" if "task" in media["name"].lower() else "CallbackView"
            told: Mapping[str, Any] = next(iter(self._schemas.get(of, {}).get("examples", ())), {})
            return told.get(media["name"], told.get("taskId", "1"))
        return self._made(media["schema"])

    def _made(self, schema: Mapping[str, Any]) -> Any:
        schema = self._resolved(schema)
        if schema.get("examples"):
            return schema["examples"][0]
        for key in ("const", "default"):
            if schema.get(key) is not None:
                return schema[key]
        if "enum" in schema:
            return schema["enum"][0]
        for one in schema.get("anyOf", schema.get("oneOf", ())):
            if one.get("type") != "null":
                return self._made(one)
        kind = schema.get("type")
        if kind == "object":
            needed = schema.get("required", ())
            return {key: self._made(one) for key, one in schema.get("properties", {}).items() if key in needed}
        if kind == "array":
            return [self._made(schema["items"])]
        return {"integer": 1, "number": 1, "boolean": True}.get(str(kind), "task_xxx")

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        return schema


def _table(*heads: str, rows: Any) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows)])


def _words(text: str) -> str:
    """Return a text as it may stand in a cell."""
    return " ".join(text.replace("``", "`").replace("|", r"\|").split())


def _fence(text: str) -> str:
    return f"```\n{text}\n```"


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
