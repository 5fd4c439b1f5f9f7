"""The manual's picture: lives per second of the gateway and of its peers, as horizontal bars in SVG.

Owns how it looks, on a light page and on a dark one.
"""

from html import escape

from figures import Figure

BARS = {
    "lives.floor": ("bare aiohttp", "GET and POST, nothing kept"),
    "lives.batches": ("this gateway", "durable"),
    "lives.script": ("asyncio and httpx", "nothing kept"),
    "lives.procrastinate": ("procrastinate on PostgreSQL", "durable"),
    "lives.dbos": ("DBOS on SQLite", "durable"),
}
WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 760, 220, 90, 44, 40, 22
STYLE = (
    "text{fill:#24292f}.quiet{fill:#6a737d}.peer{fill:#b4bac2}.ours{fill:#0a7d4f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}.peer{fill:#5b636d}.ours{fill:#2fb37c}}"
)


def draw(figures: list[Figure]) -> str:
    """Return the picture; figures that were not measured have no bar. Raises ValueError where there are none at all."""
    values = {figure.name: figure.value for figure in figures if figure.name in BARS and not figure.absent}
    if "lives.batches" not in values:
        raise ValueError("there are no lives to draw: measure them first")
    scale = (WIDTH - LEFT - RIGHT) / max(values.values())
    rows = sorted(values.items(), key=lambda item: -item[1])
    height = TOP + len(rows) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Whole lives of tasks per second on one core</title>",
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="22" font-weight="600">whole lives of tasks per second, one core</text>',
    ]
    for number, (name, value) in enumerate(rows):
        title, note = BARS[name]
        y = TOP + number * ROW
        width = max(value * scale, 1.5)
        lines += [
            f'<text x="{LEFT - 12}" y="{y + 9}" text-anchor="end">{escape(title)}</text>',
            f'<text x="{LEFT - 12}" y="{y + 24}" text-anchor="end" font-size="11" class="quiet">{escape(note)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" '
            f'class="{"ours" if name == "lives.batches" else "peer"}"/>',
            f'<text x="{LEFT + width + 8:.1f}" y="{y + 16}">{round(value, -1) if value >= 1000 else value:,.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
