"""What a call of the client may raise. Owns how a problem document (RFC 9457) becomes an error.

Called by ``gateway.client``; whoever catches ``ClientError`` catches all of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.core.errors import GatewayError

if TYPE_CHECKING:
    from gateway.client.results import Task


class ClientError(GatewayError):
    """Base of every error that a call raises."""


class FieldMistake(NamedTuple):
    """What is wrong with one member of a request, or one parameter."""

    field: str
    message: str


class ApiError(ClientError):
    """The gateway answered with an error. What to go by is ``code``, which stays the same."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        detail = problem.get("detail")
        self.status = status
        """The HTTP status."""
        self.code = str(problem.get("code", ""))
        """``not_found``, ``conflict``, ``invalid_request``, ``callback_not_allowed``, …: the manual, API, has all."""
        self.title = str(problem.get("title", ""))
        self.detail = detail if isinstance(detail, str) and detail else f"The gateway answered {status}."
        self.errors = tuple(_mistakes(problem.get("errors")))
        """The members or parameters that are wrong, in the order in which they were found."""
        self.retry_after_s = retry_after_s
        """How long the gateway asks to wait, where it does."""
        self.problem = problem
        """The whole document."""
        super().__init__(self.detail)


class Unreachable(ClientError):
    """No gateway answers: nothing listens, or the answer did not come or was cut. Trying again may help."""

    exit_code = 3


class NotAGateway(ClientError):
    """Something answered that is no gateway, or a proxy in front of it did: look at the base URL."""


class WaitTimeout(ClientError, TimeoutError):
    """The task still runs after the time that was to be waited: ``task`` is what is known of it."""

    def __init__(self, task: "Task", timeout_s: float) -> None:
        super().__init__(f"The task {task.task_id} still runs after {timeout_s:g} s.")
        self.task = task


def _mistakes(errors: Any) -> list[FieldMistake]:
    if not isinstance(errors, list):
        return []
    return [FieldMistake(str(one.get("field")), str(one.get("message"))) for one in errors if isinstance(one, dict)]
