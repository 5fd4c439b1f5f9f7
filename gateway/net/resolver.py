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

import aiodns
from pycares import AddrInfoResult

from gateway.core.errors import without_frames

_LIMIT_S = 10.0
"""Well below an attempt's time, so that a name that nobody answers for is not taken for a receiver that is slow."""
_FIRST_TRY_S = 1.0
_TRIES = 6
"""Each try waits for longer than the last. Once c-ares has seen a server answer fast the first waits only 0.25 s, and
fewer tries would give up a name that takes its server a few seconds to find."""
_RENEW_S = 5.0
"""How long new names are put to a channel. It keeps answers for their TTL, which is ten minutes for a container's name,
adapts its waits to what it has seen, and does not notice each change of resolv.conf, which may be a link or mounted."""
_MOST_ABANDONED = 1000
"""Once a channel may still ask for so many names that nobody waits for, new names are put to another one."""
_MOST_RETIRED = 4
"""One more than there are while each serves its time, as a look-up may last as long as two channels serve."""

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
        self._channel: _Channel | None = None
        self._retired: list[_Channel] = []
        self._renew_at = 0.0
        self._closed = False

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
        for channel in (*self._retired, self._channel):
            if channel is not None:
                await channel.close()

    async def _find(self, host: str) -> AddrInfoResult:
        while True:
            channel = await self._fresh_channel()
            try:
                return await channel.find(host)
            except aiodns.error.DNSError as exc:
                if exc.args[0] != aiodns.error.ARES_ECANCELLED or self._closed:
                    raise
                without_frames(exc)
                # It went with others that nobody waited for, or with its channel: ask anew.
            finally:
                await self._close_unused()

    async def _fresh_channel(self) -> "_Channel":
        if self._closed:
            raise aiodns.error.DNSError(aiodns.error.ARES_ECANCELLED)
        loop = asyncio.get_running_loop()
        old = self._channel
        if old is not None and loop.time() < self._renew_at and old.abandoned < _MOST_ABANDONED:
            return old
        _check_files()  # without any, a channel would be made that has not read resolv.conf
        new = self._channel = _Channel(aiodns.DNSResolver(self._nameservers, loop, timeout=_FIRST_TRY_S, tries=_TRIES))
        self._renew_at = loop.time() + _RENEW_S
        if old is not None:
            self._retired.append(old)
            await self._close_unused()
        return new

    async def _close_unused(self) -> None:
        """Close the retired channels that nobody waits for, and the oldest ones where there are too many."""
        unused = [channel for channel in self._retired if not channel.waiters]
        for channel in unused or self._retired[:-_MOST_RETIRED]:
            self._retired.remove(channel)
            await channel.close()


class _Channel:
    """What one channel of c-ares is asked for, and how many wait.

    It can cancel all that it asks for, and not one name. Where hundreds wait, that and asking anew would hold up the
    event loop for tens of milliseconds: so an old channel goes on with what it was asked, until nobody waits any more.
    """

    def __init__(self, asking: aiodns.DNSResolver) -> None:
        self.waiters = 0
        self.abandoned = 0
        """How many names it may still ask for though nobody waits for them."""
        self._asking = asking
        self._look_ups: dict[str, _LookUp] = {}
        self._closed = False

    async def find(self, host: str) -> AddrInfoResult:
        """Wait for a name's answer; who asks for the same name shares it. Raises ``aiodns.error.DNSError``."""
        look_up = self._look_ups.get(host)
        if look_up is None or look_up.answer.done():
            look_up = self._look_ups[host] = _LookUp(self._asking.getaddrinfo(host, type=socket.SOCK_STREAM))
        look_up.waiters += 1
        self.waiters += 1
        try:
            return await asyncio.shield(look_up.answer)
        finally:
            look_up.waiters -= 1
            self.waiters -= 1
            if not look_up.waiters:
                self._end(host, look_up)

    async def close(self) -> None:
        """End every look-up; those who wait for one get an error."""
        self._closed = True
        await self._asking.close()

    def _end(self, host: str, look_up: "_LookUp") -> None:
        if self._look_ups.get(host) is look_up:
            del self._look_ups[host]
        if look_up.answer.cancel():  # else it is there
            self.abandoned += 1
        if self.abandoned and not self.waiters and not self._closed:
            self.abandoned = 0
            self._asking.cancel()


class _LookUp:
    """A name that is being asked for, and by how many."""

    def __init__(self, answer: asyncio.Future[AddrInfoResult]) -> None:
        self.answer = answer
        self.waiters = 0


def _check_files() -> None:
    """Raise OSError where no socket can be opened: c-ares says then that no name server could be reached."""
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
