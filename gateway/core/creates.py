"""Creates through the proxy that their clients may repeat: what is asked, and what is known of the first.

Pure types, beside those of ``model``. The API and the store speak in them.
"""

import msgspec


class NewCreate(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """A create that goes through the proxy under its client's own request id, so that it can be sent again."""

    client: str
    upstream: str
    request_id: str
    digest: bytes
    """Of what was asked: the same id with anything else is no repetition."""
    at: int


class CreateAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What a create was answered, to be given again to whoever repeats it."""

    status: int
    content_type: str | None
    task_id: str | None
    """The new task's, where the answer has one."""
    body: bytes | None
    """None where it is too large to be kept."""


class KnownCreate(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """A create that was forwarded before."""

    digest: bytes
    at: int
    """When it was taken down, just before it was forwarded."""
    lost_at: int | None
    """When it was known that there will be no answer; None: it has one, or may be under way."""
    answer: CreateAnswer | None
    """None where none is known: a task may have been made, or not."""
