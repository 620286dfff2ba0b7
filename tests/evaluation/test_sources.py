"""Where features come from: sizes, costs, and maps against the network called by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from brixel_edge.errors import SpecError
from brixel_edge.evaluation import kinds as kinds_module
from brixel_edge.evaluation.kinds import feature_kinds
from brixel_edge.evaluation.settings import EvalSettings, InputSize, parse_input_size
from brixel_edge.evaluation.sources import FeatureKind, parse_engine, resized, size_of_equal_cost
from brixel_edge.image.resize import resize_image
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.model.backbones import BACKBONES, BackboneSpec
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.flops import count_gflop
from brixel_edge.network.student import adapter_metadata, load_student
from brixel_edge.network.weights import save_adapter

TINY = dict(
    timm_name="vit_small_patch16_dinov3", patch_px=16, width=32, depth=2, tap_layers=(0, 1), licence="Apache-2.0",
    overrides=(("embed_dim", 32), ("depth", 2), ("num_heads", 2)),
)  # fmt: skip
VIEW = (64, 96)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", BackboneSpec(**TINY))


def adapter(folder, name, kind="brixel", conv=None):
    student = load_student(load_backbone("tiny"), "random", kind, conv=conv)
    path = folder / name
    save_adapter(path, student.refiner.state_dict(), adapter_metadata(student))
    return str(path)


def settings(tmp_path, **changes):
    return EvalSettings(task="camvid", data=tmp_path, model="tiny", **changes)


def normalised(frame):
    rgb = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (rgb - mean) / std


@torch.no_grad()
def test_every_kind_gives_the_map_of_its_network_called_by_hand(tmp_path, photographs):
    path = adapter(tmp_path, "paper.safetensors")
    full = adapter(tmp_path, "frame.safetensors", "conv", ConvSettings(width=16, full_frame=True))
    names = ("baseline", "logits", "probabilities", "brixel", "native", "s2")
    rows = {k.name: k for k in feature_kinds(settings(tmp_path, adapters=(path, full), features=names), CPU, VIEW)}
    frame, backbone = photographs[0], load_backbone("tiny")
    at = {scale: normalised(resize_image(frame, scale * VIEW[0], scale * VIEW[1])) for scale in (1, 2, 4)}
    coarse = backbone(at[1])[-1]

    def seen(name):
        return rows[name].seen(rows[name].source.map_of(frame, VIEW, "bicubic"))

    enlarged = functional.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.allclose(seen("baseline"), enlarged, atol=1e-5)
    assert torch.allclose(seen("logits"), coarse, atol=1e-5) and rows["probabilities"].mixes_probabilities
    assert torch.allclose(seen("native"), backbone(at[4])[-1], atol=1e-5)
    assert torch.allclose(seen("brixel:paper"), load_student(backbone, path)(at[1]), atol=1e-5)
    assert torch.allclose(seen("brixel:frame"), load_student(backbone, full, "conv")(at[4]), atol=1e-5)
    assert rows["brixel:frame"].source.input_size(VIEW) == (256, 384)
    assert rows["native"].source.shape(VIEW) == (32, 16, 24) and rows["s2"].source.shape(VIEW) == (64, 4, 6)
    both = seen("s2")[0]
    tile = backbone(at[2][..., 64:, 96:])[-1]  # the lower right quarter
    assert torch.allclose(both[32:, 2:, 3:], functional.avg_pool2d(tile, 2)[0], atol=1e-5)
    assert functional.cosine_similarity(both[:32], coarse[0], dim=0).mean() > 0.99  # shrunk twice instead of once


def test_kinds_that_need_the_same_map_share_its_source(tmp_path):
    rows = feature_kinds(settings(tmp_path, features=("baseline", "logits", "probabilities", "native")), CPU, VIEW)
    assert rows[0].source is rows[1].source is rows[2].source is not rows[3].source
    assert rows[0].source.identity == rows[3].source.identity  # the same weights; the size is apart in the key


def test_other_weights_and_other_taps_have_another_identity(tmp_path):
    def identity(**changes):
        return feature_kinds(settings(tmp_path, features=("logits",), **changes), CPU, VIEW)[0].source.identity

    assert identity() == identity() != identity(tap_layers=(0,))


def test_costs_are_counted_at_the_size_that_is_fed(tmp_path):
    rows = {k.name: k for k in feature_kinds(settings(tmp_path, features=("logits", "native", "s2")), CPU, VIEW)}
    backbone = load_backbone("tiny")
    one = count_gflop(backbone, torch.empty(1, 3, *VIEW))
    assert rows["logits"].source.gflop(VIEW) == pytest.approx(one)
    assert rows["native"].source.gflop(VIEW) == pytest.approx(count_gflop(backbone, torch.empty(1, 3, 256, 384)))
    assert rows["s2"].source.gflop(VIEW) == pytest.approx(5 * one)


def test_equal_cost_is_the_largest_size_that_costs_no_more(tmp_path):
    path = adapter(tmp_path, "paper.safetensors")
    rows = {
        k.name: k
        for k in feature_kinds(settings(tmp_path, adapters=(path,), features=("brixel", "equal-cost")), CPU, VIEW)
    }
    budget = rows["brixel:paper"].source.gflop(VIEW)
    equal = rows["equal-cost:paper"].source
    height, width = equal.input_size(VIEW)
    assert equal.gflop(VIEW) <= budget and height > VIEW[0] and height % 16 == width % 16 == 0
    backbone = load_backbone("tiny")
    larger = (height + 16, round((height + 16) * 1.5 / 16) * 16)
    assert count_gflop(backbone, torch.empty(1, 3, *larger)) > budget
    assert equal.input_size((128, 96)) == (round(128 * height / 64 / 16) * 16, round(96 * width / 96 / 16) * 16)


def test_equal_cost_of_a_cost_known_by_hand():
    assert size_of_equal_cost(lambda size: size[0] * size[1], 100 * 200, (64, 128), 16) == (96, 192)
    with pytest.raises(SpecError, match="costs more"):
        size_of_equal_cost(lambda size: size[0] * size[1], 10, (64, 128), 16)


def test_views_keep_the_aspect_or_are_what_was_said():
    assert parse_input_size("256").of((360, 480)) == (256, 352)
    assert parse_input_size("128x176").of((360, 480)) == (128, 176)
    assert InputSize(short=64, step=16).of((1000, 300)) == (208, 64)
    assert InputSize(short=256).for_patch(14).of((360, 480)) == (252, 336)
    for text in ("0", "12x", "axb", "128x176x3", "-5"):
        with pytest.raises(SpecError, match="--size"):
            parse_input_size(text)


def test_the_authors_kernel_is_pillows_bilinear(photographs):
    frame = photographs[0][:100, :150]
    expected = np.asarray(Image.fromarray(frame).resize((48, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(resized(frame, (32, 48), "bilinear"), expected)
    assert np.array_equal(resized(frame, (32, 48), "bicubic"), resize_image(frame, 32, 48))


def test_engines_by_name():
    assert parse_engine("onnx-int8") == {"backend": "ort", "precision": "int8"}
    assert parse_engine("openvino-fp32") == {"backend": "openvino", "precision": "fp32"}
    for text in ("onnx", "int8", "onnx-fp64", "tflite-int8"):
        with pytest.raises(SpecError, match="onnx-int8"):
            parse_engine(text)


def test_an_adapter_in_a_runs_folder_goes_by_the_folders_name(tmp_path):
    assert kinds_module._name_of(tmp_path / "long_run" / "adapter.safetensors") == "long_run"
    assert kinds_module._name_of(tmp_path / "dinov3_vitb16.pth") == "dinov3_vitb16"


def test_an_engine_is_fed_the_whole_frame(tmp_path, photographs):
    import tiny_model

    path = tiny_model.save(tmp_path / "tiny.onnx")
    chosen = EvalSettings(task="camvid", data=tmp_path, model=str(path), threads=1)
    (kind,) = feature_kinds(chosen, CPU, VIEW)
    source = kind.source
    values = source.map_of(photographs[0], VIEW, "bicubic")
    expected = tiny_model.cell_means(resize_image(photographs[0], 32, 48).astype(np.float32))
    assert values.shape == source.shape(VIEW) == (4, 8, 12) and source.input_size(VIEW) == (32, 48)
    assert np.allclose(values[:3].permute(1, 2, 0).numpy(), expected, atol=1e-3)
    assert source.gflop(VIEW) == pytest.approx(2 * 96 * 4 * 48 / 1e9)
    source.close()
    assert isinstance(kind, FeatureKind) and kind.name == "engine:default"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("brixel",)}, "--adapter"),
        ({"features": ("equal-cost",)}, "--adapter"),
        ({"features": ("sharp",)}, "baseline, logits"),
        ({"engines": ("onnx-int8",)}, "--engine is for an exported model"),
        ({"is_receipt_written": True}, "--write-receipt"),
        ({"seeds": 0}, "--seeds 0"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"protocol": "paper"}, "labels, authors"),
        ({"task": "davis", "features": ("probabilities",)}, "davis has none"),
        ({"task": "imagenet"}, "ade20k"),
        ({"model": "m.brixel", "features": ("native",)}, "--engine"),
    ],
)
def test_what_cannot_be_asked_for_says_what_can(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        EvalSettings(**{"task": "camvid", "data": tmp_path, "model": "tiny", **changes})


def test_a_view_that_does_not_fit_the_patch_is_refused(tmp_path):
    with pytest.raises(SpecError, match="multiple of 16"):
        feature_kinds(settings(tmp_path, features=("logits",)), CPU, (60, 96))
    path = adapter(tmp_path, "paper.safetensors")
    with pytest.raises(SpecError, match="multiple of 32"):
        feature_kinds(settings(tmp_path, adapters=(path,)), CPU, (48, 96))


def test_what_cannot_be_written_is_known_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for flag in ("out", "cache"):
        with pytest.raises(SpecError, match=rf"--{flag} .*file is a file"):
            settings(tmp_path, **{flag: tmp_path / "file"})
    (tmp_path / "m.brixel").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SpecError, match=r"m\.brixel cannot be written to"):
        EvalSettings(task="camvid", data=tmp_path, model=str(tmp_path / "m.brixel"), is_receipt_written=True)
