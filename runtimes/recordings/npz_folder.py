"""One .npz a frame, for whoever reads features with numpy alone; each appears under its name when it is whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from brixel_edge.errors import BundleError
from brixel_edge.machine.files import numbered_stem, replacing
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.recordings.facts import RecordedModel
from brixel_edge.runtimes.recordings.messages import RecordedPrecision, array_to_keep, jpeg_from_frame


class NpzFolder:
    """A folder of feature maps.

    Args:
        folder: made if it is not there.
        model: whose features they are.
        precision: in which features are kept; None for that in which they were computed.

    Raises:
        BundleError: the folder cannot be made.
    """

    def __init__(self, folder: Path, model: RecordedModel, precision: RecordedPrecision | None) -> None:
        self._folder = folder
        self._precision: RecordedPrecision | None = precision
        self._model = model.to_metadata()
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"--save {folder} cannot be made ({error.strerror})") from error

    @property
    def description(self) -> str:
        """How many, and where."""
        return f"{self._folder}/ ({self._count} npz files)"

    def write(self, features: FeatureMap, name: str | None) -> None:
        """Write `000042.npz`, or `000042_NAME.npz` for the images of a folder.

        Raises:
            BundleError: it cannot be written, or is too large for fp16; those before it are whole.
        """
        path = self._folder / f"{numbered_stem(self._count, name)}.npz"
        arrays = {
            "values": array_to_keep(features.values, self._precision),
            "sequence": np.uint64(features.frame_index),
            "t_capture_s": np.float64(features.t_capture_s),
            "t_utc_s": np.float64(math.nan if features.t_utc_s is None else features.t_utc_s),
            "t_stream_s": np.float64(math.nan if features.t_stream_s is None else features.t_stream_s),
            "is_after_gap": np.bool_(features.is_after_gap),
            "source": np.str_(features.source or ""),
            "frame_size": np.array(features.frame_size, np.uint32),
            "stride_px": np.array(features.stride_px, np.float64),
            "offset_px": np.array(features.offset_px, np.float64),
            "spec_digest": np.str_(self._model["spec_digest"]),
            "model": np.str_(json.dumps(self._model)),
        }
        if features.answer is not None:
            arrays["answer"] = array_to_keep(features.answer, self._precision)
        if features.frame_bgr is not None:
            arrays["frame_jpeg"] = np.frombuffer(jpeg_from_frame(features.frame_bgr), np.uint8)
        try:
            # Not waiting for the disk, as with pictures.
            with replacing(path, is_durable=False) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **arrays)
        except OSError as error:
            raise BundleError(
                f"cannot write {path} ({error.strerror or error}); is the disk full? "
                f"The {self._count} npz files before it are whole"
            ) from error
        self._count += 1

    def close(self) -> None:
        """Nothing is left to do."""
