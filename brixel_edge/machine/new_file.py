"""A file that grows for as long as a run lasts: beside its target, and under the target's name at the end."""

from __future__ import annotations

import os
from pathlib import Path

from brixel_edge.errors import BundleError


class NewFile:
    """What all recordings that are one file share: the temporary name, the count, what is said of a failure.

    Attributes:
        path: the target.
        temporary: where it is written; what a killed process leaves.
        count: frames so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self.count = 0

    @property
    def description(self) -> str:
        """How many, and where."""
        return f"{self.path} ({self.count} frames)"

    def failed(self, error: Exception, kept: str = "") -> BundleError:
        """What to raise when a write did not work.

        Args:
            error: why.
            kept: what is left of the recording, for the message.
        """
        reason = getattr(error, "strerror", None) or error
        return BundleError(f"cannot write {self.path} ({reason}); is the disk full?{kept}")

    def publish(self) -> None:
        """Give the file its name, if there is a frame in it.

        Raises:
            BundleError: it cannot be renamed.
        """
        try:
            if self.count:
                self.temporary.replace(self.path)
            else:
                self.temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self.failed(error, f" It lies beside it as {self.temporary.name}") from error
