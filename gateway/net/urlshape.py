"""How a callback URL is written, as one regular expression for those who know no more of the gateway than a schema.

Owns no rule: ``guard`` has them, and a test holds that both take the same URLs. Of those in other letters than ASCII's
the expression takes none, as no expression can say which of them a name may have; the gateway takes them too.
ECMA-262, as JSON Schema has it, and Python read it alike.
"""

_HEX = "[0-9A-Fa-f]"
_GROUP = f"{_HEX}{{1,4}}"
_GROUPS = f"{_GROUP}(?::{_GROUP})*"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
# Eight groups, or fewer and one ::, which stands for at least one; the last two may be a v4 address.
_V6 = (
    rf"(?:(?:{_GROUP}:){{7}}{_GROUP}|(?:{_GROUP}:){{6}}{_V4}"
    rf"|(?!:*(?:{_HEX}+:{{1,2}}){{7}}{_HEX})(?:{_GROUPS})?::(?:{_GROUPS})?"
    rf"|(?!:*(?:{_HEX}+:{{1,2}}){{6,}}[0-9]+\.)(?:{_GROUPS})?::(?:{_GROUP}:)*{_V4})"
)
_ENDS = "(?![^:/?])"
_LABEL = "[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
# At most 253 characters beside a dot at its end; and a name whose last label is a number is none.
_NAME = (
    rf"(?=[0-9A-Za-z_.-]{{1,253}}\.?{_ENDS})"
    rf"(?!(?:[0-9A-Za-z_-]+\.)*(?:[0-9]+|0[Xx]{_HEX}*)\.?{_ENDS})"
    rf"{_LABEL}(?:\.{_LABEL})*\.?"
)
_PORT = r"(?::(?:(?!0+(?![0-9]))(?:[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?"
# No fragment and no backslash: from ! to ~ without # and \.
_REST = r'(?:[/?][!"$-\[\]-~]*)?'

CALLBACK_URL = rf"^[Hh][Tt][Tt][Pp][Ss]?://(?:{_V4}{_ENDS}|\[{_V6}\]|{_NAME}){_PORT}{_REST}(?![\s\S])"
