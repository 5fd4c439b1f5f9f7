"""What the API says and does: on databases that have their schema from the start."""

import pytest


@pytest.fixture(autouse=True)
def _on_ready_files(ready_files: None) -> None:
    """Have each test open such files."""
