"""An opened model: a BGR frame in, a FeatureMap out, with the answer of the model's head where it has one."""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import ParityError, SpecError
from brixel_edge.image.fit import Fit, FittedImage, check_fit, fit_frame
from brixel_edge.model.feature_space import FeatureSpace, feature_space_of
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.model.spec import ANSWER, FEATURES, UNTRAINED_NOTICE, ModelSpec
from brixel_edge.runtimes.economy import EconomicRuntime, open_economic
from brixel_edge.runtimes.engines import AUTO
from brixel_edge.runtimes.opening import OpenedEngine, open_engine_of_model
from brixel_edge.runtimes.runtime import OpenVinoPrecision, Runtime, RuntimeSettings

_LOG = logging.getLogger(__name__)


class Model:
    """A model on a backend; made by `open_model`. Close it, or use it in a `with`.

    Several threads may call it: in ONNX Runtime they run side by side, in OpenVINO and TensorRT they take turns.

    Attributes:
        spec: what the model is.
        name: what to call it.
        path: of the graph or plan that runs.
        root: the model directory; None for a bare graph.
        backend: what executes it: `ort`, `openvino` or `trt`.
        precision: of the file.
        proof: why it may be believed on this device, for people.
        passed_over: what was to be taken before it, and why it was not.
        fit: how frames of another aspect are taken.
        head: what it answers beside or instead of features: kind, classes, colours; None without a head.
    """

    def __init__(self, opened: OpenedEngine, fit: Fit) -> None:
        self.spec: ModelSpec = opened.resolved.spec
        self.name = opened.resolved.name
        self.path = opened.resolved.graph
        self.backend = opened.backend
        self.precision = opened.precision
        self.proof = opened.runtime.evidence.text
        self.passed_over = opened.passed_over
        self.fit: Fit = fit
        self.head: HeadSpec | None = self.spec.head
        self._runtime: Runtime | None = opened.runtime
        self._resolved = opened.resolved
        self.root = opened.resolved.root

    @functools.cached_property
    def feature_space(self) -> FeatureSpace:
        """Which other features may be compared with those of this model."""
        return feature_space_of(self._resolved)

    @property
    def engine(self) -> str:
        """For instance `graph.int8.ort.onnx (int8) on ort`."""
        return f"{self.path.name} ({self.precision}) on {self.backend}"

    def __call__(
        self, frame_bgr: NDArray[np.uint8], *, t_capture_s: float | None = None, frame_index: int = 0
    ) -> FeatureMap:
        """The features of one frame.

        Args:
            frame_bgr: (H, W, 3) uint8, as OpenCV delivers it; any size.
            t_capture_s: when it was taken, by `time.monotonic()`; None takes now.
            frame_index: your count of it.

        Raises:
            SpecError: no such frame, or the model is closed.
        """
        stamp = time.monotonic() if t_capture_s is None else t_capture_s
        fitted = self.prepare(frame_bgr)
        return self.features(fitted, t_capture_s=stamp, frame_index=frame_index, frame_bgr=frame_bgr)

    def prepare(self, frame_bgr: NDArray[np.uint8]) -> FittedImage:
        """The first half of a call: bring the frame to the graph's size. May run in another thread.

        Raises:
            SpecError: no uint8 (H, W, 3) frame.
        """
        return fit_frame(frame_bgr, self.spec.image, self.fit)

    def features(
        self,
        fitted: FittedImage,
        *,
        t_capture_s: float,
        frame_index: int = 0,
        is_after_gap: bool = False,
        frame_bgr: NDArray[np.uint8] | None = None,
    ) -> FeatureMap:
        """The second half of a call: run the graph.

        Raises:
            SpecError: the model is closed.
        """
        runtime = self._runtime  # which a thread that closes may take away
        if runtime is None:
            raise SpecError(f"{self.name} is closed; open it again with open_model")
        if is_after_gap and isinstance(runtime, EconomicRuntime):
            runtime.restart()
        outputs = {name: maps[0].transpose(1, 2, 0) for name, maps in runtime.infer(fitted.image).items()}
        h, w = self.spec.grid
        values = outputs[FEATURES] if self.spec.has_features else np.empty((h, w, 0), np.float32)
        view = fitted.view
        return FeatureMap(
            values=values,
            stride_px=(view.height_px / h, view.width_px / w),
            offset_px=(view.top_px, view.left_px),
            frame_size=fitted.frame_size,
            t_capture_s=t_capture_s,
            frame_index=frame_index,
            is_after_gap=is_after_gap,
            frame_bgr=frame_bgr,
            feature_space=self.feature_space,
            answer=None if self.head is None else outputs[ANSWER].astype(np.float32, copy=False),
            head=self.head,
        )

    def warm_up(self) -> None:
        """Run once on grey, so that the first frame does not pay for what an engine puts off until then.

        Raises:
            ParityError: the features are not finite.
        """
        image = self.spec.image
        features = self(np.full((image.height, image.width, 3), 127, np.uint8))
        given = [features.values] if features.answer is None else [features.values, features.answer]
        if not all(np.isfinite(values).all() for values in given):
            raise ParityError(
                f"{self.name} on {self.backend} gives NaN or Inf; use another precision, or export it again"
            )
        if isinstance(self._runtime, EconomicRuntime):
            self._runtime.restart()

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_model(
    path: str | Path | None = None,
    backend: str = AUTO,
    fit: Fit = "stretch",
    threads: int | None = None,
    precision: str | None = None,
    openvino_precision: OpenVinoPrecision = "auto",
    backbone_every: int | None = None,
) -> Model:
    """Open a model; close it when done, or use it in a `with`.

    Args:
        path: a model directory or .onnx file of brixel-export; None is the built-in default.
        backend: `ort`, `openvino`, `trt`, or `auto`: what the export was asked for, if it runs here and is proven here;
            else the next in the order of `brixel_edge.runtimes.choice`, and a warning says why.
        fit: what to do with frames of another aspect: `stretch` (the whole frame, distorted), `crop` (its centre) or
            `pad` (all of it, with bars).
        threads: of CPU backends; None takes one per core.
        precision: `fp32`, `fp16`, `bf16` or `int8`, of a model directory's engines; None leaves it to `backend`.
        openvino_precision: in what OpenVINO computes what is not integer: `f32`, the faster `bf16`, or `auto`, which is
            f32 for float graphs and bf16 for INT8 graphs where the CPU has it.
        backbone_every: the backbone runs on every so many-th frame, the adapter on each, for a directory that was
            exported with --split; give the frames of one source in order. None runs the one graph.

    Raises:
        BundleError: no model there, a changed one, or not one that the backend can run.
        BackendMissing: the backend is not installed.
        ParityError: what runs here computes something else than PyTorch did at the export.
        SpecError: an argument that cannot be.
    """
    check_fit(fit)
    settings = RuntimeSettings(threads=threads, openvino_precision=openvino_precision)
    if backbone_every is not None:
        return model_from_engine(open_economic(path, backend, precision, settings, backbone_every), fit)
    return model_from_engine(open_engine_of_model(path, backend, precision, settings), fit)


def model_from_engine(opened: OpenedEngine, fit: Fit) -> Model:
    """The second half of `open_model`, for those who open the engine themselves."""
    model = Model(opened, fit)
    if not model.spec.trained:
        _LOG.warning("%s: %s", model.name, UNTRAINED_NOTICE)
    return model
