"""The HTTP API: Starlette routes over the store's registry. Errors become problem+json; names become camelCase.

Nothing in here polls, sends or decides: a request is checked, stored or answered from the store.
"""
