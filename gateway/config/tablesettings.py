"""What windows, upstreams and clients are as settings: what the TOML file's tables say, read.

Types alone. ``settings`` hands them on, and the rest of the package takes them from ``config``.
"""

from collections.abc import Mapping

import msgspec

from gateway.core.ratelimit import RateWindow

__all__ = ["ClientSettings", "UpstreamSettings"]


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One more upstream, a table ``[upstreams.NAME]`` of the TOML file. Its repr hides the key."""

    name: str
    profile: str
    url: str | None
    """None: the profile's base URL."""
    api_key: str | None
    rate: tuple[RateWindow, ...] | None
    """None: what the profile says."""
    create_rate: tuple[RateWindow, ...] | None

    def __repr__(self) -> str:
        return f"UpstreamSettings(name={self.name!r}, profile={self.profile!r}, url={self.url!r})"


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One client, a table ``[clients.NAME]`` of the TOML file. Its repr hides all that is secret."""

    name: str
    token_hashes: tuple[bytes, ...]
    """SHA-256 digests of the tokens it may send."""
    webhook_secret: tuple[str, ...] | None
    """None: signed with ``Settings.webhook_secret``."""
    upstream: str | None
    """Where its callbacks name none; None: the default one."""
    headers: Mapping[str, str]
    """Sent to its receivers with each webhook; lower-case names."""
    rate: tuple[RateWindow, ...] | None
    """None: not limited."""

    def __repr__(self) -> str:
        return f"ClientSettings(name={self.name!r}, upstream={self.upstream!r})"
