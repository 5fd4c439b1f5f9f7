"""The manual's page of every call, from a document: nothing of it is left out, and what a schema says is words."""

import copy
import re
from typing import Any

import pytest

from gateway.dashboard.manual.calls import calls_text
from gateway.dashboard.manual.examples import LANGUAGES, ExampleRequest
from gateway.dashboard.manual.markdown import read_page

DOCUMENT: dict[str, Any] = {
    "tags": [{"name": "things", "description": "All about things."}, {"name": "empty", "description": "None."}],
    "paths": {
        "/things/{id}": {
            "put": {
                "tags": ["things"],
                "summary": "Change a thing",
                "description": "At length.",
                "parameters": [
                    {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "example": "t1"},
                    {
                        "name": "how",
                        "in": "query",
                        "required": True,
                        "schema": {"type": "string", "enum": ["a|b", "it's"], "default": "it's"},
                    },
                    {"name": "limit", "in": "query", "required": False, "schema": {"type": "integer", "minimum": 1}},
                ],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
                "responses": {"204": {"description": "done"}, "409": {"description": "no | not now"}},
            }
        }
    },
    "components": {
        "schemas": {
            "Thing": {
                "type": "object",
                "required": ["name", "parts"],
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a|b$"},
                    "parts": {
                        "type": "array",
                        "items": {"anyOf": [{"$ref": "#/components/schemas/Thing2"}, {"type": "null"}]},
                    },
                    "at": {"type": ["string", "null"], "format": "date-time", "description": "When."},
                },
            },
            "Thing2": {"type": "boolean", "description": "Whether."},
        }
    },
}
TEXT = calls_text(DOCUMENT, "https://gateway.example/base", token=True)


def test_what_a_call_takes_and_answers_is_told() -> None:
    """Its parameters, its body, each answer; a bar in a text ends no cell."""
    page = read_page("calls", TEXT, lambda name: name)
    assert [one.title for one in page.sections if one.level <= 3] == [
        "Every call",
        "Things",
        "PUT /things/{id}",
        "Webhooks",
        "Bodies",
        "Thing",
        "Thing2",
    ]
    assert r'| `how` | query | `"a\|b"` or `"it' in TEXT
    assert "| `limit`, optional | query | integer, at least 1 |  |" in TEXT
    assert r"| 409 | no \| not now |  |" in TEXT
    assert r"| `name` | text, at least 1 characters, at most 9 characters, as `^a\|b$` |  |" in TEXT
    assert "| `parts` | list of [Thing2](#thing2) or null |  |" in TEXT
    assert "| `at`, optional | date-time as text or null | When. |" in TEXT
    assert "At length." in TEXT


def test_of_named_examples_the_first_is_sent() -> None:
    """The others are shown with what they are for, wherever they stand in the document."""
    document = copy.deepcopy(DOCUMENT)
    (operation,) = document["paths"]["/things/{id}"].values()
    media = operation["requestBody"]["content"]["application/json"]
    media["examples"] = {"a": {"$ref": "#/components/examples/one"}, "b": {"summary": "Two", "value": {"name": "2"}}}
    document["components"]["examples"] = {"one": {"summary": "One", "value": {"name": "1"}}}
    text = calls_text(document, "", token=False)
    assert """-d '{"name": "1"}'""" in text
    assert 'Two:\n\n```\n{\n  "name": "2"\n}\n```' in text
    assert "One:" not in text


def test_an_example_is_made_where_none_is_given() -> None:
    """Of what must be there; the query is encoded, and a quote ends no word."""
    assert "'https://gateway.example/base/things/t1?how=it%27s'" in TEXT
    assert """-d '{"name": "task_xxx", "parts": [true]}'""" in TEXT
    assert "json={'name': 'task_xxx', 'parts': [True]}," in TEXT


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_example_asks_for_a_token_only_where_one_is_needed(language: str) -> None:
    """It stands in the environment, never in the text."""
    request = ExampleRequest("GET", "http://127.0.0.1/x", {}, token=True, body=None, answers_json=True)
    assert "GATEWAY_TOKEN" in LANGUAGES[language](request)
    assert "GATEWAY_TOKEN" not in LANGUAGES[language](request._replace(token=False))
    assert not re.search(r"[Bb]ody|json=|-d ", LANGUAGES[language](request))
