"""The HTTP API: a request is checked, stored or answered from the store; nothing in here polls, sends or decides."""
