"""Files that are never half-written: a temporary name beside the target, then a rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path, *, is_durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, for those who write by a library's own writer.

    It takes the place of `path`, and is on the disk, when the block ends without an error; after an error, whatever its
    kind, `path` is as it was and nothing is left beside it.

    Args:
        path: what is replaced.
        is_durable: wait until the disk has it, so that it survives a power cut; a cache need not.

    Raises:
        OSError: it could not be renamed.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        if is_durable:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
        if is_durable:
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def numbered_stem(count: int, name: str | None) -> str:
    """What to call the file of a frame: `000042`, or `000042_NAME` where the frame itself is a file."""
    return f"{count:06d}" + (f"_{Path(name).stem}" if name else "")


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Replace a file's content, text as UTF-8: either all of it is on the disk afterwards, or the file is as it was.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync_folder(folder: Path) -> None:
    """The new name too must survive a power cut."""
    with contextlib.suppress(OSError, AttributeError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class UnbufferedFile:
    """A new file for libraries that write to an object: every byte is with the system, or an error is raised at once.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it; a disk that is nearly full takes a part and says so only at the next call."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return os.lseek(self._handle, offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return os.lseek(self._handle, 0, os.SEEK_CUR)

    def flush(self) -> None:
        """Nothing is kept back."""

    def cut(self, size: int) -> None:
        """Shorten it."""
        os.ftruncate(self._handle, size)

    def close(self) -> None:
        """Close it."""
        os.close(self._handle)
