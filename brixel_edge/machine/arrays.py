"""Files of arrays, .npz, that come from anywhere: what reading one raises where it is damaged, or made to do harm."""

from __future__ import annotations

import zipfile
import zlib

# No file or array; no zip file, or one of a kind that Python does not read; a header that is none, or that speaks of
# more memory than there is.
DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
