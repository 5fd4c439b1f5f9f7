"""Settings that must be refused, a secret among them, and the lines of their report.

Called by the tests of the settings.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load
from gateway.core.errors import ConfigError

__all__ = ["SECRET", "problem", "problems"]

SECRET = "s3cr3t-value-that-nobody-may-see"


def problems(environ: Mapping[str, str], path: Path | None = None, **validators: Any) -> tuple[str, ...]:
    """Load settings that must be refused and return the report's lines."""
    with pytest.raises(ConfigError) as caught:
        load(environ, path, validators)
    return caught.value.problems


def problem(environ: Mapping[str, str], path: Path | None = None, **validators: Any) -> str:
    """Load settings that must be refused for one reason alone and return its line."""
    (line,) = problems(environ, path, **validators)
    return line
