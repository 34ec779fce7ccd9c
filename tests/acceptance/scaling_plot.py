"""Draws how a queue, the workers and the time to accept went over time, as one SVG; pure."""

from collections.abc import Sequence
from typing import Final

Points = Sequence[tuple[float, float]]

_WIDTH: Final = 720
_HEIGHT: Final = 110
_LEFT: Final = 60


def plot(rows: Sequence[tuple[str, Points, bool]]) -> str:
    """One row for each (title, points of seconds and value, whether a value holds until the next one)."""
    last = max(x for _, points, _ in rows for x, _ in points)
    parts = []
    for number, (title, points, holds) in enumerate(rows):
        top = number * (_HEIGHT + 40) + 25
        most = max(y for _, y in points) or 1
        places = [(_LEFT + x / last * _WIDTH, top + _HEIGHT * (1 - y / most)) for x, y in points]
        parts.append(f'<text x="{_LEFT}" y="{top - 8}">{title}, up to {most:.3g}</text>')
        parts.append(f'<path d="M{_LEFT} {top}v{_HEIGHT}h{_WIDTH}" fill="none" stroke="#999"/>')
        if holds:
            steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in places)
            parts.append(f'<path d="M{_LEFT} {top + _HEIGHT}{steps}" fill="none" stroke="#06c" stroke-width="2"/>')
        else:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="#c40"/>' for x, y in places]
    height = len(rows) * (_HEIGHT + 40) + 25
    parts.append(f'<text x="{_LEFT + _WIDTH - 90}" y="{height - 15}">{last:.0f} seconds</text>')
    style = 'font-family="sans-serif" font-size="13"'
    box = f'viewBox="0 0 {_LEFT + _WIDTH + 20} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}><rect width="100%" height="100%" fill="#fff"/>' + (
        "".join(parts) + "</svg>\n"
    )
