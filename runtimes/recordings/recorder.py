"""Saving the features of a stream: one MCAP file, or a folder of .npz."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.recordings.facts import RecordedModel
from brixel_edge.runtimes.recordings.mcap_file import McapFile
from brixel_edge.runtimes.recordings.messages import RecordedPrecision
from brixel_edge.runtimes.recordings.npz_folder import NpzFolder
from brixel_edge.runtimes.recordings.recording import RECORDING_SUFFIX


class FeatureRecorder(Protocol):
    """Keeps feature maps, with their times and frames."""

    @property
    def description(self) -> str:
        """What was saved where."""
        ...

    def write(self, features: FeatureMap, name: str | None) -> None:
        """Add the features of one frame.

        Args:
            features: with their frame, if that is to be kept.
            name: of the file that the frame is, if each is one.

        Raises:
            BundleError: they cannot be written. What was written before stays readable.
        """
        ...

    def close(self) -> None:
        """Finish, after a failed write too. A second call does nothing.

        Raises:
            BundleError: the end cannot be written.
        """
        ...


def open_feature_recorder(path: Path, model: RecordedModel, precision: RecordedPrecision | None) -> FeatureRecorder:
    """Make what a --save path names, where that is for features.

    Args:
        path: an .mcap file, or a folder.
        model: whose features they are.
        precision: in which features are kept; None for that in which they were computed.

    Raises:
        BundleError: it cannot be written.
    """
    if path.suffix.lower() == RECORDING_SUFFIX:
        return McapFile(path, model, precision)
    return NpzFolder(path, model, precision)
