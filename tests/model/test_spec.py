"""Specs: round trip, and every refused value."""

import dataclasses

import pytest

from brixel_edge.errors import SpecError
from brixel_edge.model.backbones import IMAGENET_MEAN, IMAGENET_STD, backbone_spec
from brixel_edge.model.spec import ImageSpec, ModelSpec, parse_size

IMAGE = ImageSpec(height=256, width=448, mean=IMAGENET_MEAN, std=IMAGENET_STD)
SPEC = ModelSpec(
    backbone="b", patch_px=16, dim=128, tap_layers=(1, 3), adapter="brixel", image=IMAGE, grid=(64, 112), licence="l"
)


def test_spec_survives_json():
    import json

    assert ModelSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    assert SPEC.stride_px == (4.0, 4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "other"}, "adapter 'other' is not one of brixel"),
        ({"grid": (0, 4)}, "must be positive"),
        ({"tap_layers": (3, 1)}, "must be rising"),
    ],
)
def test_model_specs_that_cannot_be_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(SPEC, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"height": 0}, "not positive"), ({"std": (1, 1, 0)}, "std above zero"), ({"channels": "GBR"}, "BGR, RGB")],
)
def test_image_specs_that_cannot_be_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(IMAGE, **change)


@pytest.mark.parametrize("change", [{"spec_version": 9}, {"unknown": 1}, {"image": None}])
def test_records_of_another_form_are_refused(change):
    with pytest.raises(SpecError, match="export"):
        ModelSpec.from_json({**SPEC.to_json(), **change})


def test_sizes_are_height_by_width():
    assert parse_size("256x448") == (256, 448)
    assert parse_size("320") == (320, 320)
    for text in ("", "x", "256x", "-1x4", "0x32", "1x2x3", "256*256", "²x3"):
        with pytest.raises(SpecError, match="HEIGHTxWIDTH"):
            parse_size(text)


def test_unknown_backbone_is_refused_with_the_list():
    with pytest.raises(SpecError, match="vit_large_patch16_dinov3"):
        backbone_spec("vit_enormous")
