"""brixel-export: what it writes, and every combination that it refuses."""

import json
import sys

import onnxruntime
import pytest

from brixel_edge.bundle import open_bundle, sha256_of
from brixel_edge.command_export import main
from brixel_edge.onnx_metadata import spec_from_onnx
from brixel_edge.spec import UNTRAINED_NOTICE

MINI = ["--backbone", "vit_mini_dinov3", "--backbone-weights", "random"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The baseline of the default backbone, 64 x 96: the quickest whole export."""
    out = tmp_path_factory.mktemp("export") / "m.brixel"
    assert main([*MINI, "--adapter", "none", "--size", "64x96", "--tap-layers", "0,1,2,3", "--out", str(out)]) == 0
    return out


def test_export_writes_a_whole_model_directory(exported):
    bundle = open_bundle(exported)
    graph = bundle.file("graph.fp32.onnx")
    assert sha256_of(graph) == bundle.manifest["files"]["graph.fp32.onnx"]["sha256"]
    assert spec_from_onnx(graph) == bundle.spec
    assert (bundle.spec.grid, bundle.spec.tap_layers, bundle.spec.trained) == ((4, 6), (0, 1, 2, 3), False)
    parity = bundle.manifest["parity"]["graph.fp32.onnx"]
    assert parity["cosine_p01"] > 0.999
    assert parity["finite"] is True
    assert bundle.manifest["tools"]["torch"]
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(uint8)", [1, 64, 96, 3])
    assert (made.name, made.type, made.shape) == ("features", "tensor(float)", [1, 128, 4, 6])


def test_the_graph_holds_no_trace_of_the_machine(exported):
    content = (exported / "graph.fp32.onnx").read_bytes()
    for trace in (b"site-packages", b".py", sys.prefix.encode()):
        assert trace not in content


def test_json_is_the_receipt_and_the_notice_is_on_stderr(tmp_path, capsys):
    out = tmp_path / "m.brixel"
    assert main([*MINI, "--adapter", "none", "--size", "32x32", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["spec"]["trained"] is False
    assert record["out"] == str(out)
    assert UNTRAINED_NOTICE in captured.err
    assert "licence Apache-2.0" in captured.err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--size", "250x256"], 2, "height 250 is not a multiple of 32; use 224 or 256"),
        (["--size", "big"], 2, "HEIGHTxWIDTH"),
        (["--backbone", "vit_mini_dinov3"], 2, "needs --backbone-weights FILE"),
        (["--adapter-weights", "a.pth"], 2, "weights without a backbone"),
        ([*MINI], 2, "--adapter-weights FILE is missing"),
        ([*MINI, "--adapter", "none", "--adapter-weights", "a.pth"], 2, "--adapter none has no weights"),
        ([*MINI, "--adapter-weights", "absent.pth"], 2, "no weights at absent.pth"),
        ([*MINI, "--adapter-weights", "random", "--tap-layers", "1,x"], 2, "not a list of block numbers"),
        ([*MINI, "--adapter-weights", "random", "--tap-layers", "3,9"], 2, "exceed the 6 blocks"),
        (
            ["--backbone", "nonsense", "--backbone-weights", "random", "--adapter", "none"],
            2,
            "is not known; choose one",
        ),
        (["--parity-images", "absent"], 2, "has no images"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, flags, code, message):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == code
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert message in error[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["trt-fp32", "trt-fp16", "trt-bf16", "trt-int8"])
def test_a_missing_tensorrt_is_exit_3_with_what_to_install(tmp_path, monkeypatch, capsys, engine):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["--engine", engine]) == 3
    error = capsys.readouterr().err
    assert "JetPack" in error
    assert "pip install 'brixel-edge[trt]'" in error
    assert not list(tmp_path.iterdir())


def test_an_unknown_engine_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--engine", "trt-fp4"])
    assert end.value.code == 2
    assert "trt-fp16" in capsys.readouterr().err
