-- What a callback's webhook is to be a part of: the traceparent of its registration, and behind a blank its tracestate
-- (gateway/core/tracecontext.py). Null: it had none, or was registered with the release before, which does not keep it.
ALTER TABLE callbacks ADD COLUMN trace text;
