"""Chance that repeats: named streams of random numbers that all follow from one seed."""

from random import Random


def stream(seed: int, *names: object) -> Random:
    """The stream of that name. Streams don't disturb each other: drawing more from one changes no other."""
    return Random("/".join(map(str, (seed, *names))))  # noqa: S311 - played chance, never a real secret
