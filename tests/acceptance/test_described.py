"""The gateway held against its own ``/openapi.json`` over real sockets, by tools that know no more of it than that.

Few examples and a fixed seed; ``make describe`` asks for new ones, and of a gateway without tokens, too. The tools
stand in an environment of their own, which ``make test`` installs.
"""

import asyncio
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from gateway.serve.asgi import serve_asgi
from tests.described.asking import SCHEMATHESIS, ask
from tests.described.served import TOKENS, described

pytestmark = [
    pytest.mark.skipif(not SCHEMATHESIS.is_file(), reason="no .venv-openapi: run `make .venv-openapi/.ready`"),
    pytest.mark.timeout(180),
]
SEED = ("--seed", "20261129", "--no-color")


async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    """What the schema allows is taken, what it forbids is refused, and every answer is one that is told of.

    Each upstream's calls stand at the root and below ``/u/``: once is enough.
    """
    environ, (header,) = TOKENS
    async with described(tmp_path, **environ) as gateway:
        url = str(gateway.client.base_url)
        status, told = await ask(url, tmp_path, *SEED, "-n", "5", "--header", header, "--exclude-path-regex", "^/u/")
        document = (await gateway.client.get("/openapi.json")).json()
    assert status == 0, told
    # It asks for the description first, and not again.
    asked = [
        call for path, item in document["paths"].items() if not path.startswith(("/u/", "/openapi")) for call in item
    ]
    assert f"Tested: {len(asked)}\n" in told
    assert " passed\n" in told.partition("Test cases:")[2]


async def test_a_description_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    """The same, of a gateway whose description names another upstream and a shorter time."""
    async with described(tmp_path) as gateway:
        document = (await gateway.client.get("/openapi.json")).json()
        asked = document["components"]["schemas"]["CallbackRequest"]["properties"]
        asked["upstream"]["anyOf"][0]["enum"] = ["nobody"]
        asked["timeoutSeconds"]["anyOf"][0]["maximum"] = 10
        document["servers"] = [{"url": str(gateway.client.base_url)}]

        async with serve_asgi(JSONResponse(document)) as url:
            status, told = await ask(
                url, tmp_path, *SEED, "-n", "8", "--phases", "coverage", "--url", str(gateway.client.base_url),
                "--include-operation-id", "registerCallback",
            )  # fmt: skip
    assert status == 1, told
    assert "POST /v1/callbacks " in told
    failures = told.partition("Failures:")[2]
    assert "Schema-valid request rejected: " in failures
    assert "Schema-violating request accepted: " in failures


async def test_a_validator_takes_the_description(tmp_path: Path) -> None:
    """OpenAPI 3.1's own schema, and what it asks beside that: of what is served, upstreams and webhooks included."""
    async with described(tmp_path) as gateway:
        (tmp_path / "openapi.json").write_bytes((await gateway.client.get("/openapi.json")).content)
    validator = SCHEMATHESIS.with_name("openapi-spec-validator")
    process = await asyncio.create_subprocess_exec(
        validator, "openapi.json", cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await process.communicate()
    assert (process.returncode, told.decode().strip()) == (0, "openapi.json: OK")
