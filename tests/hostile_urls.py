# ruff: noqa: RUF001, SIM905 - look-alike characters are the point, and tables read better as words
"""URLs and addresses that callbacks may not reach, each with the rule that refuses it."""

from ipaddress import IPv4Address

FORBIDDEN = [
    # first and last address of each range, or the best known one
    ("this_network", "0.0.0.0 0.0.0.1 0.255.255.255"),
    ("private", "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255"),
    ("shared", "100.64.0.0 100.127.255.255"),
    ("loopback", "127.0.0.0 127.0.0.1 127.255.255.255 ::1"),
    ("link_local", "169.254.0.0 169.254.255.255 fe80:: fe80::1 febf:ffff::1 fe80::1%eth0"),
    ("ietf_protocol", "192.0.0.0 192.0.0.8 192.0.0.255 2001:1::1 2001:1ff:ffff::1"),
    (
        "documentation",
        "192.0.2.0 192.0.2.255 198.51.100.7 203.0.113.255 2001:db8:: 2001:db8:ffff::1 3fff:: 3fff:fff::1",
    ),
    ("as112", "192.31.196.1 192.175.48.1 2620:4f:8000::1"),
    ("amt", "192.52.193.1"),
    ("6to4_relay", "192.88.99.0 192.88.99.1 192.88.99.255"),
    ("benchmarking", "198.18.0.0 198.19.255.255 2001:2::1"),
    ("multicast", "224.0.0.0 224.0.0.1 239.255.255.255 ff00:: ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("reserved", "240.0.0.0 255.255.255.254 4000:: 8000::1 200::1 1000::1 64:ff9b:2::1 100:0:0:1::1"),
    ("broadcast", "255.255.255.255"),
    ("unspecified", "::"),
    ("v4_mapped", "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:100.64.0.1 ::ffff:8.8.8.8 ::ffff:7f00:1"),
    ("v4_translated", "::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8"),
    ("v4_compatible", "::127.0.0.1 ::10.0.0.1 ::8.8.8.8"),
    ("nat64", "64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 64:ff9b:1:ffff::10.0.0.1"),
    ("discard", "100:: 100::1"),
    ("teredo", "2001:: 2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ("orchid", "2001:10::1 2001:1f:ffff::1 2001:20::1 2001:2f::1"),
    ("6to4", "2002:: 2002:7f00:1:: 2002:a00:1:: 2002:808:808::1"),
    ("segment_routing", "5f00:: 5f00:ffff::1"),
    ("unique_local", "fc00:: fd00::1 fdff:ffff::1"),
    ("site_local", "fec0::1 feff:ffff::1"),
]
FORBIDDEN_PAIRS = [(rule, address) for rule, addresses in FORBIDDEN for address in addresses.split()]

METADATA_V4 = (
    "169.254.169.254 169.254.170.2 169.254.170.23 169.254.0.23 169.254.42.42 "
    "100.100.100.200 192.0.0.192 168.63.129.16"
).split()  # fmt: skip


def embeddings(v4: str) -> list[str]:
    """Every v6 form that something may translate to a v4 address, written out from the RFCs."""
    number = int(IPv4Address(v4))
    high, low = number >> 16, number & 0xFFFF
    a, b, c, d = IPv4Address(v4).packed
    other = number ^ 0xFFFFFFFF
    return [
        f"::ffff:{v4}",
        f"::ffff:0:{v4}",
        f"::{v4}",
        f"64:ff9b::{v4}",
        f"64:ff9b:1::{v4}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:{high:x}:{low:x}:8000:1:2:3",  # Teredo's server
        f"2001:0:808:808:8000:1:{other >> 16:x}:{other & 0xFFFF:x}",  # Teredo's client
        f"2606:4700::5efe:{v4}",  # ISATAP
        f"fe80::{high:x}:{low:x}",
        # RFC 6052 §2.2 under a prefix of an operator's own, by the prefix's length
        f"2606:4700:{high:x}:{low:x}::",  # 32
        f"2606:4700:{a:x}:{b:02x}{c:02x}:{d:x}::",  # 40, bits 40 to 63 and 72 to 79
        f"2606:4700:1:{high:x}:{c:x}:{d:02x}00::",  # 48
        f"2606:4700:1:{0x100 | a:x}:{b:x}:{c:02x}{d:02x}::",  # 56
        f"2606:4700:1:2:{a:x}:{b:02x}{c:02x}:{d:02x}00:0",  # 64
        f"2606:4700:1:2:3:4:{high:x}:{low:x}",  # 96
    ]


METADATA = [
    *METADATA_V4,
    *(form for v4 in METADATA_V4 for form in embeddings(v4)),
    *"fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42 fe80::a9fe:a9fe%eth0".split(),
]

HOSTILE = [
    ("syntax", "", "/hooks", "app.example.com/hooks", "//app.example.com/", "https:/app.example.com", "https:app", "://x"),
    ("scheme", "http://app.example.com/", "ftp://app.example.com/", "file://localhost/etc/passwd", "gopher://x/", "ws://x/"),
    ("scheme", "unix:///run/docker.sock", "data://text/html", "httpss://app.example.com/", "HTTP://app.example.com"),
    ("userinfo", "https://user@app.example.com/", "https://u:p@app.example.com/", "https://@app.example.com/"),
    ("userinfo", "https://app.example.com@127.0.0.1/", "https://app.example.com:443@127.0.0.1/", "https://a@b@c.com/"),
    ("fragment", "https://app.example.com/#", "https://app.example.com/#x", "https://app.example.com#@127.0.0.1/"),
    ("characters", "https://app.example.com/\n", "https://app.example.com/\r\nHost: x", " https://app.example.com/"),
    ("characters", "https://app.example.com\t/", "https://app.example.com/ x", "https://app.example.com/\x00", "\x1fhttps://a.b"),
    ("characters", "https://ex\u00adample.com/", "https://app.example.com\u00a0/", "https://app\u200b.example.com/", "https://app.example.com/\u202e"),
    ("characters", "https:\\\\app.example.com/", "https://app.example.com\\@127.0.0.1/", "https://127.0.0.1\\.example.com/"),
    ("characters", "https://app.example.com/\x7f", "https://app.example.com/\u2028", "https://app.example.com/\ud800"),
    ("port", "https://app.example.com:80/", "https://app.example.com:8443/", "https://app.example.com:22/"),
    ("port", "https://app.example.com:0/", "https://app.example.com:65536/", "https://app.example.com:99999/"),
    ("port", "https://app.example.com:-1/", "https://app.example.com:+443/", "https://app.example.com:4_43/"),
    ("port", "https://app.example.com:443:443/", "https://app.example.com:x/", "https://app.example.com:４４３/"),
    ("port", "https://::1/", "https://[::1/", "https://2606:4700::1111/", "https://app.example.com:000000443/"),
    ("host", "https://", "https:///", "https:///app.example.com/", "https://:443/", "https://?x", "https://./"),
    ("host", "https://app..example.com/", "https://.example.com/", "https://app.example.com../", "https://-a.example/"),
    ("host", "https://a-.example/", "https://app.example.com%00.evil.com/", "https://127.0.0.1%2f.example.com/"),
    ("numeric_host", "https://%31%32%37.0.0.1/", "https://127.0.0.1%2e.0/", "https://a.%31.1/"),
    ("host", "https://0177.0.0.1/", "https://127.0.0.01/", "https://256.0.0.1/"),
    ("host", "https://localhost%2e/", "https://127.0.0.%31/", "https://app,example.com/", "https://a$b.example/"),
    ("host", "https://[]/", "https://[::g]/", "https://[1.1.1.1]/", "https://[v1.x]/", "https://::1]/"),
    ("host", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[::1].example.com/", "https://[::1]x/"),
    ("host", f"https://{'a' * 64}.example/", f"https://{'.'.join(['a' * 60] * 5)}/", "https://xn--a\u0308.example/"),
    ("host", "https://１２７.0.0.1/", "https://①②⑦.⓪.⓪.①/", "https://ⓛocalhost/", "https://app.exam\u2460ple/"),
    ("numeric_host", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://127.1/", "https://127.0.1/"),
    ("numeric_host", "https://0/", "https://0.0/", "https://0x0/", "https://00/", "https://017700000001/"),
    ("numeric_host", "https://0x7F.0x0.0x0.0x1/", "https://127.0.0.0x1/", "https://1.2.3/", "https://1.2.3.4.5/"),
    ("numeric_host", "https://127.0.0.1./", "https://8.8.8.8./", "https://example.1/", "https://example.0x/", "https://4294967296/"),
    ("local_name", "https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://app/", "https://ai/"),
    ("local_name", "https://app.localhost/", "https://printer.local/", "https://db.internal/", "https://db.internal./"),
    ("local_name", "https://nas.lan/", "https://box.home.arpa/", "https://localhost.localdomain/", "https://kubernetes/"),
    ("length", "https://app.example.com/" + "x" * 2048, "x" * 100_000),
]  # fmt: skip
HOSTILE_PAIRS = [(rule, url) for rule, *urls in HOSTILE for url in urls]


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
