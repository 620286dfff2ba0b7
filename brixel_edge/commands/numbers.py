"""Lists of numbers on a command line."""

from __future__ import annotations

from brixel_edge.errors import SpecError


def parse_numbers(text: str | None, flag: str, what: str) -> tuple[int, ...] | None:
    """Read `I,J,...`, whole numbers from 0.

    Args:
        text: None where the flag was not given.
        flag: that it was given with.
        what: the numbers are, and an example, for the message.

    Raises:
        SpecError: `text` is not of that form.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise SpecError(f"{flag} {text!r} is not a list of {what}")
    return tuple(int(part) for part in parts)


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """The blocks of `--tap-layers`.

    Raises:
        SpecError: as `parse_numbers`.
    """
    return parse_numbers(text, "--tap-layers", "block numbers; for instance 3,6,9,11")
