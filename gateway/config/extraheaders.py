"""The static headers that a client wants on its webhooks: which there may be.

Pure; the values are secrets and stand in no message. Called by ``config``.
"""

import re

__all__ = ["header_problem"]

# The gateway's own, those that frame the message, and those that belong to one connection (RFC 9110 §7.6.1).
_OURS = re.compile(
    r"webhook-.*|content-.*|host|user-agent|accept|accept-encoding|expect|connection|keep-alive|proxy-.*|te|trailer"
    r"|transfer-encoding|upgrade|http2-settings"
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 §5.6.2
# Visible ASCII, with spaces and tabs inside: above all no line break, which would begin a header of its own.
_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")
_MAX_VALUE = 4096


def header_problem(name: str, value: str) -> str | None:
    """Return what is wrong with a header, or None; a name is repeated only where it is one."""
    if not _NAME.fullmatch(name):
        return "a header's name is not one; write letters, digits and hyphens, such as Authorization"
    if _OURS.fullmatch(name.lower()):
        return f"{name}: the gateway sets or forbids this header itself; remove it"
    if not _VALUE.fullmatch(value) or len(value) > _MAX_VALUE:
        return f"{name}: write 1 to {_MAX_VALUE} visible ASCII characters, spaces within, no line breaks"
    return None
