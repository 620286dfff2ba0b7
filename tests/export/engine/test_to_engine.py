"""The building process, the errors that it ends with, and the graphs that never get there."""

from __future__ import annotations

import hashlib
import os
import time

import onnx
import pytest

from brixel_edge.errors import BuildError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.engine.to_engine import engine_from_onnx
from brixel_edge.model.engine_file import read_report
from brixel_edge.model.spec import ImageSpec, ModelSpec

RELEASES = ("8.6.1", "10.3.0", "10.13.0", "11.1")
MIB = 1 << 20


class Listener:
    """A progress that keeps the events."""

    def __init__(self, on_event=lambda event: None):
        self.events, self.is_closed, self._react = [], False, on_event

    def __call__(self):
        return self

    def on_event(self, event):
        self.events.append(event)
        self._react(event)

    def close(self):
        self.is_closed = True


@pytest.mark.parametrize("release", RELEASES)
def test_engine_is_built_in_a_process_of_its_own(acted_process, graphs, tmp_path, release):
    calls = acted_process(release)
    listener = Listener()
    graph, out = graphs("vit", "fp16"), tmp_path / "model"
    built = engine_from_onnx(graph, precision="fp16", out=out, progress=listener)
    assert built.plan == out / f"engine.sm87.{release}.fp16.plan"
    assert built.plan.read_bytes().startswith(b"acted plan")  # nothing prepended
    assert built.report.without_measured() == read_report(built.plan)
    assert built.report.build_s is not None and built.report.build_s >= 0
    assert built.report.sha256 == hashlib.sha256(built.plan.read_bytes()).hexdigest()
    assert built.report.graph_sha256 == hashlib.sha256(graph.read_bytes()).hexdigest()
    assert sorted(path.name for path in out.iterdir()) == [
        built.plan.name,
        f"{built.plan.name}.json",
        str(built.report.timing_cache),
    ]
    made = dict(calls())
    assert made["oom_score_adj"] == "1000"  # the kernel is to take the build, not the exporter
    assert made["pid"] != os.getpid()
    kinds = [event["event"] for event in listener.events]
    assert listener.is_closed and kinds[0] == "start" and kinds[-1] == "built"
    assert ("phase" in kinds) == listener.events[0]["has_phases"] == (release != "8.6.1")


def test_a_build_killed_by_the_kernel_is_told_as_that(acted_process, graphs, tmp_path):
    acted_process("10.3.0", die="SIGKILL")
    out = tmp_path / "model"
    with pytest.raises(MemoryBudgetError) as caught:
        engine_from_onnx(graphs("vit"), precision="fp32", out=out, progress=Listener())
    assert caught.value.exit_code == 6
    for word in ("'Building engine'", "SIGKILL", "ran out of memory", "swap", "--opt-level to 2", "--workspace"):
        assert word in str(caught.value)
    assert list(out.iterdir()) == []


def test_a_build_that_crashes_tells_its_last_words(acted_process, graphs, tmp_path):
    acted_process("10.3.0", die="SIGABRT")
    with pytest.raises(BuildError, match=r"with signal SIGABRT: .*terminate called after .*runtime_error"):
        engine_from_onnx(graphs("vit"), precision="fp32", out=tmp_path / "model", progress=Listener())


def test_a_process_that_cannot_allocate_is_out_of_memory(acted_process, graphs, tmp_path):
    acted_process("10.3.0", die="SIGABRT", last_words="terminate called after throwing an instance of 'std::bad_alloc'")
    with pytest.raises(MemoryBudgetError, match=r"in phase 'Building engine' \(std::bad_alloc\); use a smaller --size"):
        engine_from_onnx(graphs("vit"), precision="fp32", out=tmp_path / "model", progress=Listener())


def test_errors_of_the_process_arrive_as_themselves(acted_process, graphs, tmp_path):
    acted_process("10.3.0", weights=64 * MIB)
    settings = EngineSettings(max_memory_bytes=32 * MIB)
    out = tmp_path / "model"
    with pytest.raises(MemoryBudgetError, match=r"weights 64\.0 MiB"):
        engine_from_onnx(graphs("vit"), precision="fp32", out=out, settings=settings, progress=Listener())
    assert not list(out.glob("engine.*"))


def test_an_interrupted_exporter_leaves_no_process_behind(acted_process, graphs, tmp_path):
    calls = acted_process("10.3.0", hangs=True)

    def interrupt(event):
        if event["event"] == "phase":
            raise KeyboardInterrupt

    begin_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(graphs("vit"), precision="fp32", out=tmp_path / "model", progress=Listener(interrupt))
    assert time.monotonic() - begin_s < 30
    with pytest.raises(ProcessLookupError):
        os.kill(dict(calls())["pid"], 0)


def test_progress_bar_and_lines(acted_process, graphs, tmp_path, capsys, caplog):
    acted_process("10.3.0")
    engine_from_onnx(graphs("vit"), precision="fp32", out=tmp_path / "a")
    err = capsys.readouterr().err
    assert "TensorRT: 100%" in err
    acted_process("8.6.1", build_says=[["INFO", "Detected 1 inputs and 1 output network tensors."]])
    with caplog.at_level("INFO"):
        engine_from_onnx(graphs("vit"), precision="fp32", out=tmp_path / "b")
    assert "TensorRT: Detected 1 inputs and 1 output network tensors." in caplog.messages
    assert "%" not in capsys.readouterr().err  # no phases, no percentage


@pytest.mark.parametrize(
    ("graph", "precision", "message"),
    [
        (
            ("vit", "fp32"),
            "fp16",
            r"is a fp32 graph .* with nothing that says fp16; .*give graph\.fp16\.onnx, or use --engine trt-fp32",
        ),
        (("vit", "fp32"), "bf16", "nothing that says bf16"),
        (("vit", "fp16"), "int8", "is a fp16 graph .* with no QuantizeLinear"),
        (("vit", "fp16"), "fp32", "is a fp16 graph"),
        (("quantized",), "fp16", "is a int8 graph"),
    ],
)
def test_a_graph_of_another_precision_is_refused(graphs, tmp_path, graph, precision, message):
    with pytest.raises(SpecError, match=message):
        engine_from_onnx(graphs(*graph), precision=precision, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_graph_of_another_image_is_refused(graphs, tmp_path):
    image = ImageSpec(height=48, width=32, mean=(0, 0, 0), std=(1, 1, 1))
    spec = ModelSpec(
        backbone="x", patch_px=8, dim=16, tap_layers=(0,), adapter="none", image=image, grid=(6, 4), licence="none"
    )
    with pytest.raises(SpecError, match="takes images of 32x48, its spec says 48x32"):
        engine_from_onnx(graphs("vit"), spec, precision="fp32", out=tmp_path / "model")
    model = onnx.load(graphs("vit"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"
    onnx.save(model, tmp_path / "dynamic.onnx")
    with pytest.raises(SpecError, match=r"an engine's only input is image, uint8 \(1, H, W, 3\), fixed size"):
        engine_from_onnx(tmp_path / "dynamic.onnx", precision="fp32", out=tmp_path / "model")
    (tmp_path / "cut.onnx").write_bytes(graphs("vit").read_bytes()[:400])
    with pytest.raises(BundleError, match="is not an ONNX model, or is cut short"):
        engine_from_onnx(tmp_path / "cut.onnx", precision="fp32", out=tmp_path / "model")
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        engine_from_onnx(tmp_path / "nothing.onnx", precision="fp32", out=tmp_path / "model")
