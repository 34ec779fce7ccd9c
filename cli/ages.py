"""Spans of time as people write them on the command line: 90s, 30m, 12h, 7d."""

import re
from typing import Final

import typer

_SPAN: Final = re.compile(r"(\d{1,6})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(option: str, text: str) -> float:
    """The span in seconds; a wrong call, naming the option, where it is none."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{option} is a span of time such as 90s, 30m, 12h or 7d")
    return float(int(found.group(1)) * _SECONDS[found.group(2)])
