"""How long a server asks to wait: what its header says, in seconds.

Pure: must not cap what it reads.
"""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
_LONGEST = 1000  # characters that are looked at: a header may have thousands of commas


def parse_retry_after(value: str | None, now: int) -> float | None:
    """Read Retry-After, RFC 9110 §10.2.3: seconds or an HTTP date; None for anything else, or for the past.

    Of a header that came several times, its values joined by commas, the longest wait counts: each part asks for at
    least that. Unbounded: whoever waits knows for how long at most.
    """
    if value is None:
        return None
    # A date's comma stands behind its day of the week, which nobody needs.
    waits = [wait_s for part in value[:_LONGEST].split(",") if (wait_s := _wait_s(part.strip(), now)) is not None]
    return max(waits, default=None)


def parse_seconds(value: str) -> float | None:
    """Read seconds, also with decimals; None for anything else."""
    return float(value) if _SECONDS.fullmatch(value) else None


def _wait_s(value: str, now: int) -> float | None:
    seconds = parse_seconds(value)
    if seconds is not None:
        return seconds
    try:
        at = parsedate_to_datetime(value)
        delay_s = at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now / 1000
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return delay_s if delay_s >= 0 else None
