"""Names → addresses by c-ares, which asks name servers over a socket instead of keeping a thread for each name.

Owns the look-ups: how long one may take, that a name asked for twice at once is asked once, and the words for what went
wrong. Knows no policy. The transports use it as ``guard``'s ``Resolve``, and so does the check of a new callback's URL.

The system's own getaddrinfo takes a thread for as long as a name server is silent, and nothing ends it early: a few
hundred dead names held up every other one. c-ares has one thread, and reads /etc/hosts and /etc/resolv.conf with its
search domains as the system does; other sources that nsswitch.conf may name, such as mDNS, it does not ask.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial

import aiodns
from pycares import AddrInfoResult

from gateway.core.errors import without_frames

__all__ = ["Resolver"]

_LIMIT_S = 10.0
"""Well below an attempt's time, so that a name that nobody answers for is not taken for a receiver that is slow."""
_FIRST_TRY_S = 1.0
_TRIES = 6
"""Each try waits for longer than the last. Once c-ares has seen a server answer fast the first waits only 0.25 s, and
fewer tries would give up a name that takes its server a few seconds to find."""
_RENEW_S = 5.0
"""How long a channel serves. It keeps answers for their TTL, which is ten minutes for a container's name, adapts its
waits to what it has seen, and does not notice each change of resolv.conf, which may be a link or mounted."""
_MOST_ABANDONED = 1000

_WORDS = {
    aiodns.error.ARES_ENOTFOUND: (socket.EAI_NONAME, "there is no such name"),
    aiodns.error.ARES_ENODATA: (socket.EAI_NONAME, "the name has no address"),
    aiodns.error.ARES_EBADNAME: (socket.EAI_NONAME, "not a valid host name"),
    aiodns.error.ARES_ETIMEOUT: (socket.EAI_AGAIN, "no name server answered in time"),
    aiodns.error.ARES_ECONNREFUSED: (socket.EAI_AGAIN, "no name server could be reached"),
    aiodns.error.ARES_ESERVFAIL: (socket.EAI_AGAIN, "the name server could not find out"),
    aiodns.error.ARES_EREFUSED: (socket.EAI_AGAIN, "the name server refused to answer"),
    aiodns.error.ARES_ECANCELLED: (socket.EAI_AGAIN, "the gateway is shutting down"),
}


class Resolver:
    """Looks names up; belongs to the loop that runs at the first look-up."""

    def __init__(self, *, nameservers: Sequence[str] | None = None, limit_s: float = _LIMIT_S) -> None:
        """``nameservers``: addresses, with ports where they are not 53, instead of those in resolv.conf."""
        # It warns of each channel that has no inotify to watch resolv.conf with: channels are renewed instead.
        logging.getLogger("aiodns").setLevel(logging.ERROR)
        self._nameservers = nameservers
        self._limit_s = limit_s
        self._channel: aiodns.DNSResolver | None = None
        self._renew_at = 0.0
        self._closed = False
        self._look_ups: dict[str, _LookUp] = {}
        self._abandoned: set[asyncio.Future[AddrInfoResult]] = set()
        """What c-ares still asks though nobody waits for it: it can cancel all that it asks, and not one."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return every address of a host, v4 and v6.

        Raises ``socket.gaierror`` where there is none, or none is known in time, and OSError where this machine has
        no file left to ask with.
        """
        try:
            async with asyncio.timeout(self._limit_s):
                found = await self._find(host)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no name server answered within {self._limit_s:g} s") from None
        except aiodns.error.DNSError as exc:
            without_frames(exc)  # its future keeps it
            _check_files()
            code = exc.args[0]
            raise socket.gaierror(*_WORDS.get(code, (socket.EAI_FAIL, f"the look-up failed: {exc.args[-1]}"))) from None
        return [node.addr[0].decode("ascii") for node in found.nodes]

    async def close(self) -> None:
        """End every look-up; those who wait for one get an error."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def _find(self, host: str) -> AddrInfoResult:
        while True:
            channel = await self._fresh_channel()
            look_up = self._look_ups.get(host)
            if look_up is None or look_up.answer.done():
                look_up = self._look_ups[host] = _LookUp(channel.getaddrinfo(host, type=socket.SOCK_STREAM))
                look_up.answer.add_done_callback(partial(self._ended, host))
            look_up.waiters += 1
            try:
                return await asyncio.shield(look_up.answer)
            except aiodns.error.DNSError as exc:
                if exc.args[0] != aiodns.error.ARES_ECANCELLED or self._closed:
                    raise
                without_frames(exc)
                # It went with others that nobody waited for, or with its channel: ask anew.
            finally:
                look_up.waiters -= 1
                if not look_up.waiters and not look_up.answer.done():
                    del self._look_ups[host]
                    self._abandoned.add(look_up.answer)
                    self._forget_abandoned()

    async def _fresh_channel(self) -> aiodns.DNSResolver:
        if self._closed:
            raise aiodns.error.DNSError(aiodns.error.ARES_ECANCELLED)
        loop = asyncio.get_running_loop()
        if self._channel is not None and loop.time() < self._renew_at:
            return self._channel
        _check_files()  # without any, a channel would be made that has not read resolv.conf
        old = self._channel
        self._channel = aiodns.DNSResolver(self._nameservers, loop, timeout=_FIRST_TRY_S, tries=_TRIES)
        self._renew_at = loop.time() + _RENEW_S
        if old is not None:
            self._abandoned.clear()
            await old.close()
        return self._channel

    def _ended(self, host: str, answer: asyncio.Future[AddrInfoResult]) -> None:
        self._abandoned.discard(answer)
        look_up = self._look_ups.get(host)
        if look_up is not None and look_up.answer is answer:
            del self._look_ups[host]
        if not answer.cancelled():
            answer.exception()  # where nobody waits any more, nobody else would take it
        self._forget_abandoned()

    def _forget_abandoned(self) -> None:
        """Cancel what nobody waits for where nothing else is asked, or where it is a lot."""
        if self._channel is None or self._closed or len(self._abandoned) <= (_MOST_ABANDONED if self._look_ups else 0):
            return
        self._abandoned.clear()
        self._channel.cancel()


class _LookUp:
    """A name that is being asked for, and by how many."""

    def __init__(self, answer: asyncio.Future[AddrInfoResult]) -> None:
        self.answer = answer
        self.waiters = 0


def _check_files() -> None:
    """Raise OSError where no socket can be opened: c-ares says then that no name server could be reached."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
