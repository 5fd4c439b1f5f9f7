"""Where the manual explains what went wrong: a sentence of an attempt, a poll or the gateway itself → a heading there.

Owns which words belong to which heading of ``troubleshooting.md``. A test makes each sentence where it is made, and
holds the headings to the page. Pure; a filter of the templates.
"""

import re
from collections.abc import Sequence

MEANINGS: Sequence[tuple[str, str]] = (
    # First what quotes others: their words are no words of the gateway.
    # Why a poll is late, and how a task ended.
    (r"^It waits: the upstream \S+ refuses the key", "the-key-is-refused"),
    (r"^It waits for its turn: ", "the-budget-is-used-up"),
    (r"^The upstream does not know it\.", "the-task-is-not-known"),
    (r"^The upstream refuses to tell of it\.", "the-key-is-refused"),
    (r"^What the upstream answers about it could not be read\.", "the-answer-cannot-be-read"),
    (r"^It did not end in time\.", "it-says-abandoned"),
    (r"^It says ", "the-task-failed"),
    # What a poll came to.
    (r"^The upstream \S+ is not configured: nobody polls", "nobody-polls-the-task"),
    (r"^The upstream answered (401|403)\b", "the-key-is-refused"),
    (r"^The upstream answered 429\b", "the-budget-is-used-up"),
    (r"^The upstream answered (402|433)\b", "the-account-has-no-credits"),
    (r"^The upstream answered (404|422)\b|^The upstream answered: |^No task has an id with", "the-task-is-not-known"),
    (r"^The upstream's answer (is larger|is not readable|is not a JSON|cannot)", "the-answer-cannot-be-read"),
    (r"^The answer has no |^Reading the \d+ bytes", "the-answer-cannot-be-read"),
    (r"^The upstream answered about another task", "the-upstream-answers-nonsense"),
    (r"^The upstream", "the-upstream-gives-no-answer"),
    # The same in the title of a time line's moment, and what else one is called.
    (r"^Poll \d+: the key was refused", "the-key-is-refused"),
    (r"^Poll \d+: too many requests", "the-budget-is-used-up"),
    (r"^Poll \d+: the account's credits", "the-account-has-no-credits"),
    (r"^Poll \d+: the upstream knew no such task", "the-task-is-not-known"),
    (r"^Poll \d+: an answer that nobody can read", "the-answer-cannot-be-read"),
    (r"^Poll \d+: (the upstream was not available|an error|no answer)$", "the-upstream-gives-no-answer"),
    (r"^The gateway gave the task up", "it-says-abandoned"),
    (r"upstream is not configured here", "nobody-polls-the-task"),
    (r" waits for its receiver to be resumed$", "the-receiver-is-paused"),
    (r"^Nothing more: no attempt is left", "the-callback-is-dead"),
    # What is wrong with an upstream, and with the gateway.
    (r"refuses the key$|accepts the key and refuses some", "the-key-is-refused"),
    (r"answers nonsense, or denies tasks", "the-upstream-answers-nonsense"),
    (r"gives no answer, or errors alone", "the-upstream-gives-no-answer"),
    (r"allows fewer requests than are configured", "the-budget-is-used-up"),
    (r"^no replica polls", "nobody-polls-the-task"),
    (r"disk is full", "the-disk-is-full"),
    (r"^the store is failing|the database", "the-database-fails"),
    (r"^operator events do not get through$", "operator-events-do-not-get-through"),
    (r"to their collector$", "the-collector-takes-nothing"),
    (r"keeps failing$|has made no progress for", "a-loop-fails"),
    (r"^it is (starting|shutting down)$", "it-starts-or-stops"),
    # What an attempt came to.
    (r"[Tt]he egress proxy on the way to |^an egress proxy cannot", "the-egress-proxy-fails"),
    (r"The egress proxy opened no connection to ", "the-egress-proxy-fails"),
    (r"The name of .* could not be resolved", "the-name-does-not-resolve"),
    (r" could not be reached \(| closed the connection before its answer was complete", "nothing-listens-there"),
    (r"No secure connection to ", "its-certificate-is-not-accepted"),
    (r" did not answer in full within ", "the-receiver-is-slow"),
    (r" is not valid HTTP/1\.1 ", "its-answer-is-not-http"),
    (r"\S+ answered 410:", "it-answers-410"),
    (r"\S+ answered (401|403|407):", "it-answers-401-or-403"),
    (r"\S+ answered \d{3}:", "it-answers-anything-else"),
    (r"GATEWAY_CALLBACK_ALLOW|callbacks may not reach|metadata service", "the-address-is-blocked"),
    (r"The callback URL cannot be read", "the-address-is-blocked"),
)
"""Patterns, of which the first that is found counts, and the headings' anchors."""

_COMPILED = [(re.compile(pattern), anchor) for pattern, anchor in MEANINGS]


def meaning(text: str | None) -> str | None:
    """Return the anchor of the heading that explains a sentence; None where none does."""
    return next((anchor for pattern, anchor in _COMPILED if text and pattern.search(text)), None)
