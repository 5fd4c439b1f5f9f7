"""uvicorn's HTTP/1.1 connection, to which ``Upgrade`` means nothing: every server of this package listens with it.

Owns that a request is framed by its length or its chunks whatever it asks to be upgraded to, which a server may ignore
(RFC 9110 §7.8), which host it names, whether it is the last one, and that what follows a body in chunks is no header
(§6.5.1): whatever stands in front of a server has not looked at it. And that blanks behind a header's value, which the
parser leaves there, are no part of it (§5.5). Knows no limit and no route. ``closing`` builds on it, and ``inbound`` on
that; the simulator and ``asgi`` use it as it is.

llhttp, the parser under httptools, ends such a request at its head: the bytes of its body would be lost, or served as a
request of their own. The JDK's HttpClient and ``curl --http2`` ask for h2c with every request over http.
"""

import re

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class ServerProtocol(HttpToolsProtocol):
    """One client's connection. Subclasses that replace ``data_received`` have ``feed`` parse what has come."""

    retold = False
    """Whether the parser now reads a head again, which has been handed on already."""
    _is_last = False  # by what its head says, where the parser takes that for another word

    def data_received(self, data: bytes) -> None:
        """Replace uvicorn's, which knows an upgrade."""
        self._unset_keepalive_if_required()
        try:
            self.feed(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def feed(self, data: bytes) -> None:
        """Parse what has come. Raises HttpParserError, whose context is what a callback raised."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                data = data[exc.args[0] :]
                self._tell_head_again()
                continue
            return

    def _tell_head_again(self) -> None:
        """Have a fresh parser read on, told of the head only what frames the body."""
        framing = (b"content-length", b"transfer-encoding")
        fields = [b": ".join(field) for field in self.scope["headers"] if field[0] in framing]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.retold = True
        try:
            self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *fields, b"", b""]))
        finally:
            self.retold = False

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(*self.field(name, value))

    def field(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Return a header as it is handed on; heed ``close`` with a tab behind it, for the parser another word."""
        name = name.lower()
        if name == b"connection" and b"\t" in value:  # a blank as any (RFC 9110 §5.6.3)
            self._is_last |= b"close" in (word.strip(b" \t") for word in value.lower().split(b","))
        return name, value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        if not self.retold:
            if not self.url.startswith(b"/"):
                self._name_host()
            super().on_headers_complete()
            if self._is_last:
                self.cycle.keep_alive = False
        self.headers = []  # where trailers go: nobody reads them

    def _name_host(self) -> None:
        """Have a target in absolute form name the host, whatever the header says (RFC 9112 §3.2.2)."""
        _, scheme_ends, rest = self.url.partition(b"://")
        if scheme_ends:
            authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
            self.headers[:] = [(b"host", authority), *(field for field in self.headers if field[0] != b"host")]

    def on_message_complete(self) -> None:
        self._is_last = False
        if not self.parser.should_upgrade():  # else the body is still to come
            super().on_message_complete()
