"""The weights that come with the package: brixel-nano and its adapters. `weights/README.md` is their model card."""

from __future__ import annotations

from pathlib import Path

from brixel_edge.errors import SpecError
from brixel_edge.model.backbones import BUILT_IN, BUILT_IN_VIEW, DEFAULT_BACKBONE, BackboneSpec, backbone_spec

FOLDER = Path(__file__).parents[1] / "weights"
BACKBONE_FILE = FOLDER / "nano.safetensors"
ADAPTER_FILES = {BUILT_IN: FOLDER / "nano-frame.safetensors", BUILT_IN_VIEW: FOLDER / "nano-view.safetensors"}


def built_in_backbone(name: str) -> Path:
    """The packaged weights of a backbone.

    Raises:
        SpecError: none of that name are packaged.
    """
    if name != DEFAULT_BACKBONE:
        raise SpecError(f"no weights of {name} are built in, only those of {DEFAULT_BACKBONE}; give --backbone-weights")
    return BACKBONE_FILE


def built_in_adapter(backbone: BackboneSpec, weights: str) -> Path:
    """The packaged conv adapter of a backbone.

    Raises:
        SpecError: none is packaged for it.
    """
    if backbone != backbone_spec(DEFAULT_BACKBONE):
        raise SpecError(f"the built-in adapters are for {DEFAULT_BACKBONE} with its own tapped layers")
    return ADAPTER_FILES[weights]
