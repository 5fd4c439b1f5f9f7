"""What schemathesis is told beside ``/openapi.json``: imported by it, in its own environment.

Owns what no schema can say. Must not know anything of the gateway's source.
"""

import re
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

_LONGEST_WAIT_S = 0.1
# By operation, the members or parameters that may be of the schema and are refused all the same: the text of each call
# says so.
_MAY_BE_REFUSED = {
    "listCallbacks": {"cursor"},  # one that the gateway did not give out
    "redeliverCallbacks": {"since"},  # one that is after until, or no day of the calendar
}


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Have it look for no URL of 2,048 characters: it would for minutes, as it can make none so long of a pattern."""
    del raw_schema["components"]["schemas"]["CallbackRequest"]["properties"]["callbackUrl"]["maxLength"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Have nobody wait for tasks that never end; how long a wait may be is seen in what is refused."""
    wait = str((case.query or {}).get("wait"))
    if re.fullmatch(r"[0-9.]+", wait) and _LONGEST_WAIT_S < float(wait) <= 60:
        case.query["wait"] = _LONGEST_WAIT_S


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Pass over what is refused for a reason that the schema cannot have."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 422:
        return True
    told = response.json()
    fields = {error["field"] for error in told.get("errors", ())}
    return not fields or not fields <= _MAY_BE_REFUSED.get(case.operation.definition.raw["operationId"], set())
