"""Outbound sockets: which addresses may be dialled, name resolution, the HTTP client's transport."""
