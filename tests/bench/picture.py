"""Lives per second as a bar chart in SVG, readable on a light and on a dark page. Owns nothing but how it looks."""

NAMES = {
    "floor": "bare aiohttp: GET and POST, nothing kept",
    "lives": "this gateway, durable",
    "script": "asyncio + httpx script, nothing kept",
    "procrastinate": "procrastinate, PostgreSQL",
    "dbos": "DBOS, SQLite",
}
WIDTH, LEFT, BAR, GAP = 760, 300, 22, 12


def lives(per_s: dict[str, float]) -> str:
    """Draw one bar for each."""
    scale = (WIDTH - LEFT - 80) / max(per_s.values())
    height = 40 + len(per_s) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="14" role="img" aria-label="Lives of a task per second on one core">',
        "<style>text{fill:#1f2328}.bar{fill:#8c959f}.ours{fill:#0969da}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}.ours{fill:#4493f8}}</style>",
        f'<text x="{LEFT}" y="20" font-weight="bold">lives of a task per second, one core</text>',
    ]
    for number, (name, value) in enumerate(sorted(per_s.items(), key=lambda item: -item[1])):
        y = 36 + number * (BAR + GAP)
        kind = "ours" if name == "lives" else "bar"
        parts.append(f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{NAMES[name]}</text>')
        parts.append(
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(value * scale, 1):.1f}" height="{BAR}" rx="2"/>'
        )
        parts.append(f'<text x="{LEFT + value * scale + 8:.1f}" y="{y + 16}">{value:,.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])
