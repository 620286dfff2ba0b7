"""Dense ViT features, fine enough to segment and measure with, on devices with 4 GB of memory or less.

    import brixel_edge

    with brixel_edge.open_model("vits16.brixel") as model:
        fm = model(frame_bgr)
        heat = fm.similarity(fm.at(x=320, y=240))

    for fm in brixel_edge.stream("vits16.brixel", source="0"):
        ...

    cup = brixel_edge.Prototypes()
    cup.add("cup", fm, x=320, y=240)
    cup.find(fm)["cup"].box

Names are loaded at their first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs milliseconds, in which Ctrl-C is still Python's
if TYPE_CHECKING:
    from brixel_edge.model.features import FeatureMap
    from brixel_edge.runtimes.asking.prototypes import Prototypes
    from brixel_edge.runtimes.model import Model, open_model
    from brixel_edge.runtimes.recordings.recording import Recording, load_recording
    from brixel_edge.runtimes.stream.feature_stream import stream

    __version__: str

__all__ = ["FeatureMap", "Model", "Prototypes", "Recording", "__version__", "load_recording", "open_model", "stream"]

_HOMES = {
    "FeatureMap": "brixel_edge.model.features",
    "Model": "brixel_edge.runtimes.model",
    "Prototypes": "brixel_edge.runtimes.asking.prototypes",
    "Recording": "brixel_edge.runtimes.recordings.recording",
    "load_recording": "brixel_edge.runtimes.recordings.recording",
    "open_model": "brixel_edge.runtimes.model",
    "stream": "brixel_edge.runtimes.stream.feature_stream",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("brixel-edge")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
