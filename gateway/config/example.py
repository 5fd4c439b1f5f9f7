"""The commented file of all settings, made of their declarations: ``config/gateway.toml``, and what a command prints.

Owns its headings, and its words on tables; a setting's own sentence stands in ``settings``. A test holds the
file to it.
"""

import re
import textwrap
from collections.abc import Iterator

from gateway.config.settings import SETTINGS, Setting

_HEADINGS = {
    "host": "Listening",
    "database_url": "Storage",
    "upstream": "Upstream",
    "webhook_secret": "Webhooks and clients",
    "poll_min_s": "Polling",
    "retry_schedule": "Delivering",
    "drain_s": "Operating",
}
"""Each by the setting that stands first below it."""
_ITEMS_AS_TEXT = ("upstream_rate",)
"""Lists whose items are no numbers."""
_WIDTH = 118
_COMMAND = re.compile(r"`[^`]+`")
_SECRETS = [setting.key for setting in SETTINGS if setting.secret]

_HEAD = (
    "Settings of the gateway, each with its default: copy this file, uncomment what you change, and start "
    "`gateway --config FILE serve` (or name the file in GATEWAY_CONFIG). `gateway check-config` reports every mistake.",
    "",
    "Each key is also an environment variable, GATEWAY_ and the key in capitals, which wins over this file. The "
    f"secrets ({', '.join(_SECRETS)}) are better kept out of it: "
    "variables such as GATEWAY_UPSTREAM_API_KEY_FILE name files that hold them.",
    'Lists may be written as one string or as an array: "0,5,300" or [0, 5, 300].',
)
_TABLES = """\
# --- More upstreams ---
#
# Tables stand last. Each has its own key; a callback names one with "upstream": "runway". What an upstream may be
# asked, and how its answers are read, stands in its profile, upstreams/*.toml. Every key may be left out: profile (the
# table's name), url, rate and create_rate (the profile's), api_key or api_key_file. Its own calls, for its clients,
# stand below /u/NAME: http://127.0.0.1:8080/u/runway is the base URL to give to Runway's SDK.
#
#     [upstreams.runway]
#     profile = "runway"
#     api_key_file = "/run/secrets/runway"
#     rate = ["2/1"]
#
# The default upstream may have a table too. What upstream_url, upstream_api_key and upstream_rate say does not stand in
# it again; the rate of creates, for clients that create tasks through the gateway, stands only here:
#
#     [upstreams.aigptimage]
#     create_rate = ["5/1", "180/60"]

# --- Several clients ---
#
# Each has its own token, and sees its own callbacks only. `gateway make-secret --token` prints a token, which is for
# the client alone, and the line with its hash, which stands here; token_hashes = [...] takes several, to change tokens
# without a gap. GATEWAY_TOKEN stays the token of the client "default". Every other key may be left out:
# webhook_secret or webhook_secret_file: whsec_…, several separated by spaces; else GATEWAY_WEBHOOK_SECRET signs.
# upstream: the one its callbacks mean when they name none. rate: requests/seconds windows for its API calls.
# headers: sent with each of its webhooks and shown nowhere; headers_file has them as lines, name: value.
#
#     [clients.shop]
#     token_hash = "sha256:…"
#     webhook_secret_file = "/run/secrets/shop-webhooks"
#     upstream = "runway"
#     rate = ["20/1", "600/60"]
#     headers = { Authorization = "Bearer …" }

# --- Receivers that want something of their own ---
#
# A table for each beginning of URLs: scheme, host, optional port, and path, of which whole segments count. Of several
# that match a webhook's URL the longest counts, alone. Every other key may be left out. headers: sent with each one.
# secret_file: what signs, in the place of the client's and GATEWAY_WEBHOOK_SECRET. ca_file: the authorities that are
# trusted, instead of the system's. client_cert_file and client_key_file: the certificate that is shown (mTLS). proxy:
# an HTTP proxy on the way; proxy_file has it where a password stands in it. concurrency, rate: how many attempts at
# once, and in which time. timeout_s: how long one may take.
#
#     [[receivers]]
#     match = "https://hooks.example.com/orders"
#     headers = { Authorization = "Bearer …" }
#     secret_file = "/run/secrets/orders-webhooks"
#     ca_file = "/etc/gateway/example-ca.pem"
#     client_cert_file = "/etc/gateway/gateway.pem"
#     client_key_file = "/run/secrets/gateway-key.pem"
#     proxy = "http://proxy.internal:3128"
#     concurrency = 4
#     rate = ["10/1"]
#     timeout_s = 30
"""


def example() -> str:
    """Return the whole file: every setting with its sentence and its default, all of it commented out."""
    return "\n".join((*_head(), "", *_settings(), _TABLES))


def _head() -> Iterator[str]:
    for paragraph in _HEAD:
        kept = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), paragraph)  # on one line
        filled = textwrap.fill(kept, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        yield filled.replace("\0", " ") or "#"


def _settings() -> Iterator[str]:
    for setting in SETTINGS:
        if setting.key in _HEADINGS:
            yield f"# --- {_HEADINGS[setting.key]} ---\n"
        yield f"# {setting.doc}\n# {setting.key} = {_value(setting)}\n"


def _value(setting: Setting) -> str:
    """Return a setting's default as TOML has it."""
    default = setting.default or ""
    if setting.separator == ",":
        quote = '"' if setting.key in _ITEMS_AS_TEXT else ""
        return f"[{', '.join(f'{quote}{item}{quote}' for item in default.split(',') if item)}]"
    return default if default.isdecimal() else f'"{default}"'
