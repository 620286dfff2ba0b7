"""brixel-export: what it writes, and every combination that it refuses."""

import json
import subprocess
import sys

import jsonschema
import numpy as np
import onnxruntime
import pytest

import brixel_edge
from brixel_edge.commands.export import main
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import open_bundle
from brixel_edge.model.onnx_file import spec_from_onnx
from brixel_edge.model.receipt import SCHEMA_PATH
from brixel_edge.model.spec import UNTRAINED_NOTICE

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
    assert sha256_of(graph) == bundle.receipt.files["graph.fp32.onnx"].sha256
    assert spec_from_onnx(graph) == bundle.spec
    assert (bundle.spec.grid, bundle.spec.tap_layers, bundle.spec.trained) == ((4, 6), (0, 1, 2, 3), False)
    parity = bundle.receipt.parity["graph.fp32.onnx"]
    assert parity.cosine_p01 > 0.999
    assert parity.finite is True
    assert bundle.receipt.tools["torch"]
    row = next(row for row in bundle.receipt.measured.bench.rows if row.name == "graph.fp32.onnx, ort")
    assert row.p50_ms > 0 and row.peak_bytes > 10 << 20
    jsonschema.validate(bundle.receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
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
    assert main([*MINI, "--adapter", "none", "--size", "32x32", "--no-bench", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert "bench" not in record["measured"]
    assert record["spec"]["trained"] is False
    assert record["out"] == str(out)
    assert UNTRAINED_NOTICE in captured.err
    assert "licence Apache-2.0" in captured.err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--size", "250x256"], 2, "height 250 is not a multiple of 64; use 192 or 256"),
        (["--adapter", "brixel", "--size", "250x256"], 2, "height 250 is not a multiple of 32; use 224 or 256"),
        (["--size", "big"], 2, "HEIGHTxWIDTH"),
        (["--backbone", "vit_mini_dinov3"], 2, "needs --backbone-weights FILE"),
        (["--adapter-weights", "a.pth"], 2, "weights without a backbone"),
        (["--backbone-weights", "a.pth"], 2, "weights without a backbone"),
        (["--tap-layers", "0,2"], 2, "the built-in adapters are for vit_nano_dinov3 with its own tapped layers"),
        (
            ["--backbone", "vit_mini_dinov3", "--backbone-weights", "built-in", "--adapter", "none"],
            2,
            "no weights of vit_m",
        ),
        ([*MINI], 2, "--adapter-weights FILE is missing"),
        ([*MINI, "--adapter", "none", "--adapter-weights", "a.pth"], 2, "--adapter none has no weights"),
        ([*MINI, "--adapter-weights", "absent.pth"], 2, "no weights at absent.pth"),
        ([*MINI, "--adapter-weights", "random", "--tap-layers", "1,x"], 2, "not a list of block numbers"),
        ([*MINI, "--adapter-weights", "random", "--tap-layers", "1,²"], 2, "not a list of block numbers"),
        ([*MINI, "--adapter-weights", "random", "--tap-layers", "3,9"], 2, "exceed the 6 blocks"),
        (
            ["--backbone", "nonsense", "--backbone-weights", "random", "--adapter", "none"],
            2,
            "is not known; choose one",
        ),
        (["--parity-images", "absent"], 2, "has no images"),
        (["--adapter", "none", "--sizes", "64x64,70x64"], 2, "height 70 is not a multiple of 16; use 64 or 80"),
        (["--features", "fp16"], 2, "--features fp16 needs an fp16 graph, --engine onnx makes none"),
        (["--calib", "photos"], 2, "--engine onnx calibrates nothing; leave --calib out, or use onnx-int8"),
        (["--engine", "onnx-int8", "--calib", "absent"], 2, "absent"),
        (["--engine", "onnx-fp16", "--calib-n", "0"], 2, "--calib-n 0"),
        (
            ["--adapter", "brixel", "--full-frame"],
            2,
            "--conv-width and --full-frame are for --adapter conv, not for --adapter brixel",
        ),
        (["--adapter", "none", "--conv-width", "64"], 2, "are for --adapter conv, not for --adapter none"),
        (["--adapter", "conv", "--conv-width", "50"], 2, "adapter width 50 is not a positive multiple of 16"),
        (
            [*MINI, "--adapter", "conv", "--adapter-weights", "a.safetensors", "--full-frame"],
            2,
            "--adapter-weights a.safetensors says the width and the input of its adapter itself",
        ),
        (["--adapter", "conv", "--full-frame", "--size", "96x128"], 2, "height 96 is not a multiple of 64; use 64 or"),
        (["--opt-level", "9"], 2, "optimisation level 9 is not in 0 to 5"),
        (["--workspace", "lots"], 2, "is not a size in bytes"),
        (["--rtx-sm", "87"], 2, "are not among those of TensorRT-RTX"),
        (["--rtx-sm", "ampere"], 2, "--rtx-sm 'ampere' is not a list of compute capabilities"),
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
    assert main(["--engine", "trt-fp4"]) == 2
    assert "trt-fp16" in capsys.readouterr().err


SMALL = [*MINI, "--adapter", "none", "--no-bench"]


def test_two_sizes_are_two_model_directories_each_proven(tmp_path, capsys):
    out = tmp_path / "m.brixel"
    flags = ["--engine", "onnx-fp16", "--features", "fp16", "--sizes", "32x48,48x32", "--out", str(out), "--json"]
    assert main([*SMALL, *flags]) == 0
    record = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-32x48.brixel", "m-48x32.brixel"]
    for model, grid in zip(record["models"], ([2, 3], [3, 2]), strict=True):
        bundle = open_bundle(model["out"])
        assert model["spec"]["grid"] == grid
        assert sorted(model["parity"]) == ["graph.fp16.onnx", "graph.fp32.onnx"]
        assert len(model["attempts"]) == 1
        session = onnxruntime.InferenceSession(bundle.file("graph.fp16.onnx"), providers=["CPUExecutionProvider"])
        (made,) = session.get_outputs()
        assert (made.type, made.shape) == ("tensor(float16)", [1, 128, *grid])
        with brixel_edge.open_model(model["out"], precision="fp16", backend="ort") as opened:
            assert opened(np.zeros((20, 30, 3), np.uint8)).grid == tuple(grid)


def test_the_full_frame_goes_in_at_four_times_the_view(tmp_path, capsys, photographs):
    """What the settings make, against a student built by hand with the same seed."""
    import cv2
    import torch

    from brixel_edge.model.adapters import ConvSettings
    from brixel_edge.network.backbone import load_backbone
    from brixel_edge.network.student import load_student

    out = tmp_path / "m.brixel"
    flags = [*MINI, "--adapter", "conv", "--adapter-weights", "random", "--conv-width", "32", "--full-frame"]
    flags += ["--size", "128x192", "--seed", "3"]
    assert main([*flags, "--no-bench", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert "tracing the fused model\n" in captured.err  # there is no sampling to choose
    record = json.loads(captured.out)
    assert record["spec"]["grid"] == [8, 12]
    session = onnxruntime.InferenceSession(str(out / "graph.fp32.onnx"), providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [("image", [1, 128, 192, 3])]
    frame = cv2.resize(photographs[0], (192, 128))
    student = load_student(
        load_backbone("vit_mini_dinov3", seed=3),
        "random",
        "conv",
        seed=3,
        conv=ConvSettings(width=32, full_frame=True),
    )
    mean, std = (np.array(record["spec"]["image"][key]) for key in ("mean", "std"))
    pixels = ((frame[..., ::-1] / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        expected = student(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
    features = session.run(None, {"image": frame[None]})[0]
    assert np.linalg.norm(features - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("flags", "adapter", "weights", "sizes"),
    [
        ([], "conv", "built-in", ((512, 704),)),
        (["--adapter", "conv", "--full-frame"], "conv", "built-in", ((512, 704),)),
        (["--size", "256x320"], "conv", "built-in", ((256, 320),)),
        (["--adapter-weights", "built-in-view"], "conv", "built-in-view", ((128, 176),)),
        (["--adapter", "none"], "none", "random", ((128, 176),)),
        (["--adapter", "brixel"], "brixel", "random", ()),
        (["--conv-width", "64", "--full-frame", "--size", "256x256"], "conv", "random", ((256, 256),)),
    ],
)
def test_without_a_backbone_it_is_the_built_in_one(flags, adapter, weights, sizes):
    from brixel_edge.commands.export import build_parser
    from brixel_edge.commands.export_request import request_from_arguments

    request = request_from_arguments(build_parser().parse_args(flags))
    assert (request.backbone, request.backbone_weights) == ("vit_nano_dinov3", "built-in")
    assert (request.adapter, request.adapter_weights, request.sizes) == (adapter, weights, sizes)
    assert request.outs[0].name == "default.brixel"
    assert (request.conv is None) == (weights != "random" or adapter != "conv")


def test_a_full_frame_of_no_named_size_has_the_default_view(monkeypatch, tmp_path):
    from brixel_edge.commands import export_steps
    from brixel_edge.commands.export import build_parser
    from brixel_edge.commands.export_request import request_from_arguments

    sizes = []

    def keep(request, student, spec, out, head):
        sizes.append((spec.image.height, spec.image.width))

    monkeypatch.setattr(export_steps, "job_from_request", keep)
    monkeypatch.setattr(export_steps, "export_directory", lambda job: None)
    random = [*MINI, "--adapter", "conv", "--adapter-weights", "random"]
    for flags in ([*random, "--full-frame"], random, [*random, "--size", "64x32"]):
        request = request_from_arguments(build_parser().parse_args([*flags, "--out", str(tmp_path / "m.brixel")]))
        list(export_steps.export(request))
    assert sizes == [(1024, 1024), (256, 256), (64, 32)]


def test_dynamic_int8_without_calibration_frames(tmp_path, capsys):
    out = tmp_path / "m.brixel"
    flags = ["--engine", "onnx-int8", "--min-speedup", "0", "--size", "64x64", "--out", str(out), "--json"]
    assert main([*SMALL, *flags]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["int8"]["kind"], record["int8"]["files"]) == ("dynamic", ["graph.int8.ort.onnx"])
    assert record["parity"]["graph.int8.ort.onnx"]["gate"] == "int8"
    assert set(record["measured"]["int8_speed"]["int8_ms"]) == {"graph.int8.ort.onnx, ort"}
    jsonschema.validate({k: v for k, v in record.items() if k != "out"}, json.loads(SCHEMA_PATH.read_text()))
    with brixel_edge.open_model(out, precision="int8", backend="ort") as opened:
        assert opened(np.zeros((20, 30, 3), np.uint8)).grid == (4, 4)


def test_int8_that_does_not_pay_is_refused_with_both_numbers(tmp_path, capsys):
    out = tmp_path / "m.brixel"
    flags = ["--engine", "onnx-int8", "--min-speedup", "1000", "--size", "32x32", "--out", str(out)]
    assert main([*SMALL, *flags]) == 4
    error = capsys.readouterr().err
    assert "INT8 takes" in error and "less than the 1000.0 times that INT8 must gain" in error
    assert [path.name for path in out.iterdir()] == ["failed.json"]


def test_a_wrong_result_is_exit_5_and_leaves_the_report_alone(tmp_path, monkeypatch, capsys):
    from brixel_edge.export.judges import OrtJudge

    right = OrtJudge.outputs

    def shifted(self, graph, images):
        return [{name: np.roll(one, 1, axis=3) for name, one in given.items()} for given in right(self, graph, images)]

    monkeypatch.setattr(OrtJudge, "outputs", shifted)
    out = tmp_path / "m.brixel"
    assert main([*SMALL, "--size", "64x64", "--out", str(out), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["exit_code"] == 5
    assert [path.name for path in out.iterdir()] == ["failed.json"]
    assert main(["--backbone", "nonsense", "--backbone-weights", "random", "--adapter", "none", "--out", str(out)]) == 2


@pytest.mark.rtx
def test_tensorrt_rtx_engines_are_made_and_said_to_be_unproven_here(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    out = tmp_path / "m.brixel"
    assert main([*SMALL, "--engine", "trt-rtx", "--rtx-sm", "86", "--size", "32x32", "--out", str(out)]) == 0
    (plan,) = out.glob("engine.sm86.rtx*.fp16.plan")
    receipt = open_bundle(out).receipt
    assert receipt.engines[plan.name].report.typing == "strong"
    assert receipt.engines[plan.name].graph == "graph.fp16.onnx"
    is_proven = receipt.engines[plan.name].proven
    assert is_proven == (plan.name in receipt.parity)
    assert is_proven != ("NOT PROVEN: this machine cannot run it" in capsys.readouterr().out)
    jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "250x256"], "height 250 is not a multiple of 64; use 192 or 256"),
        (["--adapter-weights", "built-in-view", "--size", "250x256"], "height 250 is not a multiple of 16; use 240 or"),
        (["--adapter", "brixel", "--size", "250x256"], "height 250 is not a multiple of 32; use 224 or 256"),
        (["--adapter", "none", "--size", "250x256"], "height 250 is not a multiple of 16; use 240 or 256"),
        (["--adapter", "conv", "--full-frame", "--size", "96x128"], "height 96 is not a multiple of 64; use 64 or 128"),
        (
            [
                "--backbone",
                "vit_small_patch14_dinov2",
                "--backbone-weights",
                "random",
                "--adapter",
                "none",
                "--size",
                "256x252",
            ],
            "height 256 is not a multiple of 14; use 252 or 266",
        ),
        (
            ["--backbone", "dinov3", "--backbone-weights", "absent.pth", "--adapter", "none", "--size", "64x65"],
            "width 65 is not a multiple of 16; use 64 or 80",
        ),
    ],
)
def test_a_size_that_the_table_rules_out_is_refused_before_torch_is_loaded(tmp_path, flags, message):
    code = (
        "import sys; from brixel_edge.commands.export import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'timm', 'onnx'} & sys.modules.keys())); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert (run.returncode, run.stdout.strip()) == (2, "[]")
    assert message in run.stderr
