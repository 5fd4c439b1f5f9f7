"""schemathesis against a gateway that runs: the command, and what it says.

Owns how it is called. Called by the tests and by ``make describe``; its settings stand in ``schemathesis.toml`` beside
this, and what no schema can say in ``hooks``.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["SCHEMATHESIS", "ask"]

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
SCHEMATHESIS = _ROOT / ".venv-openapi" / "bin" / "schemathesis"


async def ask(url: str, folder: Path, *arguments: str, output: int | None = asyncio.subprocess.PIPE) -> tuple[int, str]:
    """Return its exit status and what it has written; the folder takes what it leaves behind.

    ``output``: None has it write to the terminal, and returns no text.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(url, arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_HERE), "SCHEMATHESIS_HOOKS": "hooks"},
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, (told or b"").decode()


def _command(url: str, arguments: Sequence[str]) -> list[str]:
    config = ["--config-file", str(_HERE / "schemathesis.toml")]
    return [str(SCHEMATHESIS), *config, "run", *arguments, f"{url}/openapi.json"]
