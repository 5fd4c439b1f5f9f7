"""Secrets out of texts: what the other side sends back may repeat what it was sent, or knows.

Owns in which spellings a secret is found; pure: must not keep a text. What was answered is
put through it before anything of that is kept, logged or passed on.

Found are the secret itself and what common encoders make of it: the escapes of JSON, at any depth of JSON in JSON, of
URLs and of HTML, UTF-16 and UTF-32. This is against echoes, in an error's text or on a debugging page. Whoever has a
secret can tell it in ways that nobody finds, and base64 of it is one of them.
"""

import re
from collections.abc import Iterable
from itertools import groupby

_LEAST = 8  # characters: a secret as short as a word is none, and would be found in texts that do not speak of it
_LEAST_PART = 6  # characters of a secret that are not shown at the end of a text that was cut
_PIECE = 64 * 1024  # bytes that are searched at once
_LONGEST = 16 * 1024  # bytes of a secret, however it is spelt
_STARS = rb"*\g<wide>*\g<wide>*"
_NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


class Mask:
    """Some secrets, those that are too short left out."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Take them as they are written; one that holds another is best given first."""
        texts = [secret for secret in secrets if len(secret) >= _LEAST]
        self._secrets = [(_needle(text), _pattern(text)) for text in texts]
        self._texts = [text.encode() for text in texts]

    def masked(self, text: bytes) -> bytes:
        """Return the text with stars in the place of each secret: the same object where there is none."""
        for needle, pattern in self._secrets:
            # Answers are many, and looking for bytes takes a hundredth of a pattern's time. Only in UTF-16 and UTF-32,
            # whose text begins with a zero byte among four, the needle is not found so.
            if needle in text or b"\0" in text[:4]:
                text = _replaced(pattern, text)
        return text

    def masked_cut(self, text: bytes) -> bytes:
        """Return the same for a text that was cut: it may end with the beginning of a secret."""
        text = self.masked(text)
        for secret in self._texts:
            lengths = range(min(len(secret) - 1, len(text)), _LEAST_PART - 1, -1)
            part = next((length for length in lengths if text.endswith(secret[:length])), 0)
            text = text[: len(text) - part] + b"***" if part else text
        return text


def _replaced(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    """Return the text with stars for each match. A piece at a time: one search of many megabytes stops every thread."""
    if len(text) <= _PIECE:
        return pattern.sub(_STARS, text)
    done = bytearray()
    kept = at = 0
    while at < len(text):
        found = pattern.search(text, at, at + _PIECE + _LONGEST)
        if found is None or found.start() >= at + _PIECE:
            at += _PIECE
        else:
            done += text[kept : found.start()]
            done += found.expand(_STARS)
            kept = at = found.end()
    return bytes(done) + text[kept:] if kept else text


def _needle(secret: str) -> bytes:
    """Return the longest part of a secret that no encoder for text changes."""
    parts = ["".join(part) for plain, part in groupby(secret, _is_plain) if plain]
    return max(parts, key=len, default="").encode()


def _pattern(secret: str) -> re.Pattern[bytes]:
    first, *rest = (_spellings(character) for character in secret)
    # What stands between two characters in UTF-16 and UTF-32 stands between all of them.
    return re.compile(rb"%b(?P<wide>\0{0,3})%b" % (first, b"(?P=wide)".join(rest)))


def _spellings(character: str) -> bytes:
    if _is_plain(character):
        return re.escape(character.encode())
    number = ord(character)
    # Found with the backslashes that escape it, a backslash itself too.
    itself = rb"\\++" if character == "\\" else rb"\\*+" + re.escape(character.encode())
    percent = b"".join(rb"%%(?:25)*(?i:%02x)" % byte for byte in character.encode())
    found = [percent, rb"\\++u(?i:%04x)" % number, rb"&#0*+%d;" % number, rb"&#[xX]0*+(?i:%x);" % number]
    if character in _NAMED:
        found.append(rb"&%b;" % _NAMED[character].encode())
    return b"(?:%b|%b)" % (b"|".join(found), itself)  # the longer ones first, which may begin with it


def _is_plain(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in "-_.~")
