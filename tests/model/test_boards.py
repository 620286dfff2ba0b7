"""What `--for` stands for."""

from __future__ import annotations

import pytest

from brixel_edge.commands.export import build_parser
from brixel_edge.commands.export_from_request import from_arguments
from brixel_edge.commands.export_request import check_engines, fill_in_board, request_from_arguments
from brixel_edge.errors import SpecError
from brixel_edge.export.engine.known_bad import default_sampler, needs_early_bf16
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.engine.target import BuildTarget
from brixel_edge.model.boards import BOARDS
from brixel_edge.model.engine_choice import engine_choices


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_sampler_of_a_board_is_the_one_that_no_known_trouble_forbids(board):
    for names in (board.graphs, board.engines):
        assert engine_choices(",".join(names))
    if board.tensorrt is not None:
        target = BuildTarget(version=board.tensorrt, compute_capabilities=(board.compute_capability,))
        assert board.sampler == default_sampler(target)


def arguments(*flags):
    parsed = build_parser().parse_args([*flags])
    fill_in_board(parsed, on_board=parsed.source is not None)
    return parsed


def test_a_board_stands_for_options_that_are_printed_and_may_be_overruled(capsys):
    request = request_from_arguments(arguments("--for", "jetson-orin-nano"))
    assert [str(engine) for engine in request.engines] == ["onnx-fp16", "onnx-bf16"]
    assert (request.sampler, request.has_half_features) == ("gridsample", True)
    assert request.target is not None and needs_early_bf16(request.target)
    error = capsys.readouterr().err
    assert "stands for --engine onnx-fp16,onnx-bf16 --sampler gridsample --features fp16" in error
    assert "brixel-export --from DIR --for jetson-orin-nano" in error
    overruled = request_from_arguments(arguments("--for", "jetson-orin-nano", "--sampler", "gather"))
    assert overruled.sampler == "gather"
    late = request_from_arguments(arguments("--for", "jetson-orin-nano-jetpack7"))
    assert late.sampler == "gather" and late.target is not None and not needs_early_bf16(late.target)


def test_on_the_board_it_stands_for_engines_and_limits():
    request = from_arguments(arguments("--from", "m.brixel", "--for", "jetson-orin-nano"))
    assert [str(engine) for engine in request.engines] == ["trt-fp16"]
    assert (request.settings.workspace_bytes, request.settings.max_memory_bytes) == (512 << 20, 1536 << 20)


@pytest.mark.parametrize(
    ("names", "message"),
    [("onnx-fp16,nonsense", "engine 'nonsense' is not one of"), ("trt-fp16,trt-rtx", "make two exports"),
     ("onnx-int8,trt-int8", "one export quantises once; add trt-int8 with --from")],
)  # fmt: skip
def test_lists_of_engines_that_cannot_be(names, message):
    with pytest.raises(SpecError, match=message):
        engine_choices(names)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"is_version_compatible": True}, "--version-compatible"), ({"dla_core": 0}, "--dla"),
     ({"hardware_compatibility": "ampere+"}, "--hardware-compatibility")],
)  # fmt: skip
def test_settings_that_trt_rtx_does_not_take_are_refused_before_anything_is_built(monkeypatch, settings, flag):
    monkeypatch.setattr("brixel_edge.commands.export_request.has_tensorrt", lambda kind: True)
    with pytest.raises(SpecError, match=f"{flag} is not for TensorRT-RTX"):
        check_engines(engine_choices("trt-rtx"), EngineSettings(**settings))
