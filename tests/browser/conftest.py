"""The real processes of the acceptance tests, for pages that look at a gateway from elsewhere."""

from tests.acceptance.conftest import world

__all__ = ["world"]
