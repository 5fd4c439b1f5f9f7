"""What ``/openapi.json`` tells of each call beside its one line: what it is for, and what a client has to know.

Owns the words; which calls there are ``table`` owns. Imported when the document is first asked for.
"""

TEXTS = {
    "registerCallback": "The answer is sent once the callback is on disk. The same client, task and URL again is "
    "answered 200 with the callback that is there, so that a request whose answer was lost may be sent again; with "
    "another metadata, timeoutSeconds or format it is a conflict. Where the task has ended already, the webhook goes "
    "out at once. A callback URL that the gateway's callback policy refuses (a private address, a port, plain http) is "
    "422 with the code callback_not_allowed: no schema can tell those, as they depend on the gateway's settings and on "
    "what a name leads to.",
    "listCallbacks": "Your own, or for the operator everybody's. Take nextCursor of a page as the cursor of the next "
    "one until it is null; a cursor that this gateway did not give out is 422.",
    "registerCallbacks": "Each item stands for itself: its answer stands at its place in data, with the status that it "
    "would have had alone, and one that is refused takes no other down. At most 12 MiB in all, and 64 KiB an item.",
    "getCallback": "Where it is between its registration and its delivery, and what its task is at.",
    "cancelCallback": "No webhook is sent for it any more. One that was cancelled before is 204 again; one that is "
    "delivered or dead is a conflict.",
    "listAttempts": "Every POST of its webhook so far: when, how long, what was answered, and what came of it.",
    "redeliverCallback": "It is pending again, whatever became of it before, and its receiver knows the webhook by its "
    "webhook-id. While its task runs, or once it was cancelled, that is a conflict.",
    "redeliverCallbacks": "Answered once all of them are due again on disk. They are taken in parts: after a 503 the "
    "same request takes the rest. since has to lie before until. With dryRun nothing is done, and the answer is 200.",
    "getTask": "From what the gateway knows: the upstream is not asked. With wait the answer comes once the task has "
    "ended, or after so many seconds with the task as it is then. 404 where no callback was registered for it.",
    "getHealth": "For a liveness probe: 503 says that the process is to be started anew.",
    "getReadiness": "For a readiness probe: 503 while it starts, drains, its store fails or the upstream refuses the "
    "key, with the reasons.",
    "getMetrics": "For Prometheus. They name no task, URL or client secret.",
    "getDescription": "OpenAPI 3.1. Generators of clients, and the API's page of the manual, are made from it.",
    "read": "For programs that poll: however many they are and however often they ask, the upstream is asked once. A "
    "task that is not watched yet is read from the upstream, and watched from then on.",
    "create": "The request goes to the upstream with its key in place of yours. A callback URL in it is taken out and, "
    "once the upstream has answered with a task's id, registered; one that may not be called is refused before "
    "anything is forwarded. With an X-Request-ID of your own the same request may be sent again: no second task is "
    "made.",
    "pass": "The request goes to the upstream with its key in place of yours, and its answer comes back.",
}
"""By operationId; of the upstreams' calls by what they do."""
