"""A request as somebody would write it: in curl, in Python with httpx, in JavaScript with fetch.

Owns the words of each language. Pure. Called by ``calls``; a test runs what it makes.
"""

import json
import pprint
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

_INDENT = "    "


class ExampleRequest(NamedTuple):
    """One request."""

    method: str
    url: str
    query: Mapping[str, str]
    token: bool
    """Whether it needs a token."""
    body: Any
    """JSON; None: it has none."""
    answers_json: bool
    """Whether the answer is JSON."""

    @property
    def whole_url(self) -> str:
        return self.url + (f"?{urlencode(self.query)}" if self.query else "")


def curl(request: ExampleRequest) -> str:
    words = ["curl -s"]
    if request.method != "GET" and not (request.method == "POST" and request.body is not None):
        words.append(f"-X {request.method}")
    lines = [" ".join((*words, _quoted(request.whole_url)))]
    if request.token:
        lines.append('-H "authorization: Bearer $GATEWAY_TOKEN"')
    if request.body is not None:
        lines.append("-H 'content-type: application/json'")
        lines.append(f"-d {_quoted(json.dumps(request.body, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def python(request: ExampleRequest) -> str:
    lines = ["import os", "", "import httpx", ""] if request.token else ["import httpx", ""]
    lines += [f"answer = httpx.{request.method.lower()}(", f'{_INDENT}"{request.whole_url}",']
    if request.token:
        lines.append(f"""{_INDENT}headers={{"authorization": f"Bearer {{os.environ['GATEWAY_TOKEN']}}"}},""")
    if request.body is not None:
        body = pprint.pformat(request.body, width=96, sort_dicts=False).replace("\n", f"\n{_INDENT}     ")
        lines.append(f"{_INDENT}json={body},")
    shown = "answer.json()" if request.answers_json else "answer.status_code, answer.text"
    return "\n".join((*lines, ")", "answer.raise_for_status()", f"print({shown})"))


def javascript(request: ExampleRequest) -> str:
    headers = []
    if request.token:
        headers.append("authorization: `Bearer ${process.env.GATEWAY_TOKEN}`")
    if request.body is not None:
        headers.append('"content-type": "application/json"')
    options = [f'method: "{request.method}",'] if request.method != "GET" else []
    if headers:
        options.append(f"headers: {{ {', '.join(headers)} }},")
    if request.body is not None:
        body = json.dumps(request.body, ensure_ascii=False, indent=2).replace("\n", "\n  ")
        options.append(f"body: JSON.stringify({body}),")
    inner = "".join(f"  {line}\n" for line in options)
    more = f", {{\n{inner}}}" if options else ""
    shown = "await answer.json()" if request.answers_json else "answer.status, await answer.text()"
    return "\n".join(
        (
            f'const answer = await fetch("{request.whole_url}"{more});',
            "if (!answer.ok) throw new Error(await answer.text());",
            f"console.log({shown});",
        )
    )


LANGUAGES: Mapping[str, Callable[[ExampleRequest], str]] = {"curl": curl, "Python": python, "JavaScript": javascript}


def _quoted(text: str) -> str:
    """Return a text as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
