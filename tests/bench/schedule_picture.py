"""The picture of the schedule laboratory: lag against polls, one panel a workload."""

import math
from collections.abc import Mapping, Sequence

from tests.bench.policies import Figures

WIDTH, HEIGHT, MARGIN, TOP = 440, 300, 52, 34
POLLS_SHOWN, LAGS_SHOWN = (1.5, 24.0), (0.4, 20.0)
STYLES = {"fixed interval": "#8a8f98", "gateway": "#0a7d4f", "full knowledge": "#d08700"}


def page(panels: Sequence[str]) -> str:
    """Return the picture of these panels, two in a row."""
    legend = "".join(
        f'<line x1="{52 + 160 * i}" y1="20" x2="{76 + 160 * i}" y2="20" stroke="{colour}" stroke-width="2.5"/>'
        f'<text x="{82 + 160 * i}" y="24">{name}</text>'
        for i, (name, colour) in enumerate(STYLES.items())
    )
    rows = (len(panels) + 1) // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {TOP + rows * HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#24292f">\n'
        '<title>Mean lag against polls per task</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{legend}\n{''.join(panels)}</svg>\n"
    )


def panel(name: str, curves: Mapping[str, Sequence[Figures]], dots: Mapping[str, Figures], number: int) -> str:
    """Draw one workload; ``number``: which panel it is."""
    left, top = (number % 2) * WIDTH, TOP + (number // 2) * HEIGHT

    def place(value: float, bounds: tuple[float, float]) -> float:
        return math.log(value / bounds[0]) / math.log(bounds[1] / bounds[0])

    def x(polls: float) -> float:
        return round(left + MARGIN + place(polls, POLLS_SHOWN) * (WIDTH - MARGIN - 16), 1)

    def y(lag_s: float) -> float:
        return round(top + HEIGHT - 44 - place(lag_s, LAGS_SHOWN) * (HEIGHT - 44 - 28), 1)

    def shown(at: Figures) -> bool:
        return POLLS_SHOWN[0] <= at.polls <= POLLS_SHOWN[1] and LAGS_SHOWN[0] <= at.mean_s <= LAGS_SHOWN[1]

    parts = [f'<text x="{left + MARGIN}" y="{top + 18}" font-weight="600">{name}</text>']
    for polls in (2, 5, 10, 20):
        parts.append(f'<path d="M{x(polls)} {y(LAGS_SHOWN[0])}V{y(LAGS_SHOWN[1])}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{x(polls)}" y="{y(LAGS_SHOWN[0]) + 16}" text-anchor="middle">{polls}</text>')
    for lag in (0.5, 1, 2, 5, 10, 20):
        parts.append(f'<path d="M{x(POLLS_SHOWN[0])} {y(lag)}H{x(POLLS_SHOWN[1])}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{x(POLLS_SHOWN[0]) - 6}" y="{y(lag) + 4}" text-anchor="end">{lag} s</text>')
    middle = left + (WIDTH + MARGIN) / 2
    parts.append(f'<text x="{middle}" y="{top + HEIGHT - 12}" text-anchor="middle">polls per task → mean lag ↑</text>')
    for label, curve in curves.items():
        points = " ".join(f"{x(at.polls)},{y(at.mean_s)}" for at in curve if shown(at))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{STYLES[label]}" stroke-width="2"/>')
    for label, at in dots.items():
        if shown(at):
            colour = STYLES["gateway" if label == "default" else "fixed interval"]
            parts.append(f'<circle cx="{x(at.polls)}" cy="{y(at.mean_s)}" r="3.5" fill="{colour}"/>')
            parts.append(f'<text x="{x(at.polls) + 6}" y="{y(at.mean_s) - 5}" font-size="11">{label}</text>')
    return "\n".join(parts) + "\n"
