"""The one folder outside of what the user names where something may be kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where it is; nothing is made. BRIXEL_CACHE, else XDG_CACHE_HOME/brixel-edge, else ~/.cache/brixel-edge."""
    if named := os.environ.get("BRIXEL_CACHE"):
        return Path(named)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "brixel-edge"
