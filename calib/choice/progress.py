"""Progress on stderr for stages that take longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_DELAY_S = 2.0


def progress(items: Iterable[Item], what: str, *, total: int | None = None, shown: bool = True) -> Iterator[Item]:
    """Pass `items` through; draw a bar once it takes over two seconds.

    Without tqdm (it comes with the extra `export`) there is no bar and no error.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(items)
    return iter(tqdm(items, desc=what, total=total, delay=_DELAY_S, disable=not shown, file=sys.stderr, leave=False))
