"""Every error this package raises on purpose, as one tree. Must not know who catches it.

::

    GatewayError
    ├── ConfigError            the settings cannot be used; the process exits 2
    ├── SecretError            a webhook secret or key cannot be used
    ├── VerificationError      a received webhook does not prove its origin
    ├── OutputError            what a command prints cannot be written
    │   └── OutputClosed       nobody reads it any more, which is no failure
    ├── AddressNotAllowed      a callback may not reach this host, address or port
    ├── ExchangeFailed         a request got no whole answer (in ``net.errors``, as it is httpx's TransportError too)
    ├── OutOfResources         this machine has no file or memory left for a connection
    ├── StoreError             the database cannot answer; callers may try again
    │   ├── StoreRefused       it will not take this write's values, whoever tries again
    │   ├── StoreDefect        a defect keeps this one write from being stored
    │   ├── StorePartly        it failed when a part of what was asked was done already
    │   ├── StoreUnsure        its answer to a commit was lost: nobody knows
    │   ├── StoreLocked        somebody else holds what this write wants; the database is well
    │   └── StoreUnusable      it never will without an operator: corrupt, read-only, newer
    │       └── StoreInUse     another process has it
    └── RequestError           an HTTP request that is answered with an error: problem+json, or an envelope
        ├── MalformedRequest          400  invalid_request
        ├── InvalidJson               400  invalid_json
        ├── Unauthorized              401  unauthorized
        ├── Forbidden                 403  forbidden
        ├── NotFound                  404  not_found
        ├── MethodNotAllowed          405  method_not_allowed
        ├── RequestTimeout            408  invalid_request
        ├── Conflict                  409  conflict
        ├── TooLarge                  413  too_large
        ├── UnsupportedMediaType      415  unsupported_media_type
        ├── InvalidRequest            422  invalid_request
        ├── CallbackNotAllowed        422  callback_not_allowed
        ├── RateLimited               429  rate_limited
        ├── HeadTooLarge              431  too_large
        ├── UpstreamFailed            502  upstream_failed
        ├── Unavailable               503  unavailable
        └── UpstreamTimeout           504  upstream_timeout

Messages are safe to show to whoever made the request: they never hold a secret or a URL's query string.
Expected remote failures (a receiver's 500, an upstream's time-out) are values, not exceptions.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, TypeVar

Error = TypeVar("Error", bound=BaseException)


def without_frames(error: Error) -> Error:
    """Return an error that is kept, or told of elsewhere, without where it came from and what it came of.

    The frames that it went through hold what they worked on, bodies too; and where one of them holds the error in turn,
    all that stays until the garbage collector looks through everything, which then takes a tenth of a second.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class GatewayError(Exception):
    """Base of every error raised on purpose; ``message`` says what is wrong and what to do."""

    exit_code: ClassVar[int] = 1
    """What a command ends with that ends with this error."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(GatewayError):
    """Settings that cannot be used: ``problems`` has one line for each, all found in one pass."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class SecretError(GatewayError):
    """A webhook secret or key is malformed, too short or too long. The message never repeats it."""

    exit_code = 2


VerificationReason = Literal["unsigned", "malformed", "too_old", "too_new", "no_match", "changed"]
"""What a webhook lacks: its headers or a signature of the right kind; a form that can be read; a time that is near; a
signature by the secret. Or it has one, of the same JSON as it was before somebody wrote it anew."""


class VerificationError(GatewayError):
    """A webhook's headers or signature do not prove that a holder of the secret sent these bytes."""

    def __init__(self, message: str, reason: VerificationReason = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class OutputError(GatewayError):
    """Standard output cannot be written: a full disk, a terminal that is gone. No OSError: that could be any file's."""


class OutputClosed(OutputError):
    """Whoever read the output has seen enough (``| head``); the command ends without a word."""

    exit_code = 0


class AddressNotAllowed(GatewayError):
    """The callback policy refuses a URL or address: ``rule`` names the rule, the message the way out."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class OutOfResources(GatewayError):
    """No file or memory is left on this machine for a connection: that says nothing about whoever was to be reached."""


StoreReason = Literal["full", "read_only", "restarting", "promoted", "unreachable", "slow", "refused"]
"""What kind of trouble a database is in: no room; takes no writes; stops or starts; is no primary, which another server
is or will be; gives no answer; none in time; lets nobody in, or not this one."""


class StoreError(GatewayError):
    """The database could not do what was asked; nothing of it was done."""

    def __init__(self, message: str, *, reason: StoreReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class StoreRefused(StoreError):
    """The write's own values cannot be stored; the database is well."""


class StoreDefect(StoreError):
    """The gateway fails on this one write, which nobody who asked for it can mend; the database is well."""


class StorePartly(StoreError):
    """A part of what was asked is done, and stays so: the message says which, and what to do about the rest."""


class StoreUnsure(StoreError):
    """The database's answer to a commit was lost: nobody knows whether what was asked is done."""


class StoreLocked(StoreError):
    """Somebody else holds a lock on what was to be changed for too long; nothing was done, and the database is well."""

    longest_pause_s: ClassVar[float] = 32.0
    """For so long at most one pauses before the next try: until then the store knows the lock, and waits for it for a
    moment only, as all other writes wait too."""


class StoreUnusable(StoreError):
    """The database will not work until an operator acts; the message says how."""

    exit_code = 2


class StoreInUse(StoreUnusable):
    """Another process has the database: no mistake, and it may end."""

    exit_code = 1


class RequestError(GatewayError):
    """A request that gets an error for an answer: problem+json (RFC 9457), or the upstream's envelope."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, message: str, *, errors: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.errors = tuple(errors)
        """Pairs of field and message, in the order they were found."""
        self.headers = dict(headers or {})


class MalformedRequest(RequestError):
    status, code, title = 400, "invalid_request", "The request is not HTTP"


class InvalidJson(RequestError):
    status, code, title = 400, "invalid_json", "The body is not valid JSON"


class Unauthorized(RequestError):
    status, code, title = 401, "unauthorized", "A valid token is needed"

    def __init__(self, message: str) -> None:
        # RFC 9110 §11.6.1: a 401 names the scheme that would be accepted.
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class Forbidden(RequestError):
    status, code, title = 403, "forbidden", "This is not allowed"


class NotFound(RequestError):
    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(RequestError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class RequestTimeout(RequestError):
    status, code, title = 408, "invalid_request", "The request took too long to arrive"

    def __init__(self, message: str) -> None:
        # What is still to come must not be taken for the connection's next request.
        super().__init__(message, headers={"connection": "close"})


class Conflict(RequestError):
    status, code, title = 409, "conflict", "The present state does not allow this"


class TooLarge(RequestError):
    status, code, title = 413, "too_large", "The body is too large"


class UnsupportedMediaType(RequestError):
    status, code, title = 415, "unsupported_media_type", "The body must be plain application/json"


class InvalidRequest(RequestError):
    status, code, title = 422, "invalid_request", "The request is not valid"


class CallbackNotAllowed(RequestError):
    status, code, title = 422, "callback_not_allowed", "The callback URL is not allowed"


class RateLimited(RequestError):
    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after_s)})
        self.retry_after_s = retry_after_s


class HeadTooLarge(RequestError):
    status, code, title = 431, "too_large", "The request's head is too large"


class UpstreamFailed(RequestError):
    status, code, title = 502, "upstream_failed", "The upstream gave no answer"


class Unavailable(RequestError):
    status, code, title = 503, "unavailable", "The gateway cannot do this now"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after_s)})


class UpstreamTimeout(RequestError):
    status, code, title = 504, "upstream_timeout", "The upstream took too long"
