"""Progress on stderr: a bar on a terminal, one line a stage in a pipe or a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_DELAY_S = 2.0  # what is over sooner needs no bar


def progress(
    items: Iterable[Item], what: str, *, total: int | None = None, note: Callable[[], str] | None = None
) -> Iterator[Item]:
    """Pass `items` through; say on stderr how far they are.

    On a terminal a bar once it takes over two seconds, if tqdm is there (it comes with the extras `export` and
    `train`). Elsewhere one line at the end of a stage that took as long.

    Args:
        items: what is worked on.
        what: a word for the stage.
        total: how many items; None asks `items`.
        note: asked after each item for what the bar shows behind it.
    """
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            bar = tqdm(items, desc=what, total=total, delay=_DELAY_S, file=sys.stderr, leave=False)
            for item in bar:
                yield item
                if note:
                    bar.set_postfix_str(note(), refresh=False)
            return
    start_s, count = time.monotonic(), 0
    for count, item in enumerate(items, start=1):  # noqa: B007 (its last value is what is printed)
        yield item
    spent_s = time.monotonic() - start_s
    if spent_s >= _DELAY_S:
        print(f"{what}: {count} in {spent_s:.1f} s", file=sys.stderr, flush=True)
