"""The engine builder against acted TensorRT releases that have what the real ones have and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from brixel_edge.errors import BackendMissing, BuildError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.export.engine.build import build, check_rtx_graph
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings
from brixel_edge.model.engine_file import EngineReport
from brixel_edge.model.graph_facts import graph_facts

RELEASES = ("8.6.1", "10.3.0", "10.13.0", "11.1")
MIB = 1 << 20


def request(graph, precision, tmp_path, **settings):
    return BuildRequest(
        graph=graph, plan=tmp_path / "plan", kind="trt", precision=precision, settings=EngineSettings(**settings)
    )


def build_here(graph, precision, tmp_path, **settings):
    """Build in this process; the report and the events."""
    events = []
    report = build(request(graph, precision, tmp_path, **settings), events.append)
    return report, events


def test_stand_in_lacks_what_the_release_lacks(acted):
    world = acted("11.1")
    assert not hasattr(world.tensorrt.BuilderFlag, "FP16")
    assert not hasattr(world.tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    builder = world.tensorrt.Builder(world.tensorrt.ILogger())
    with pytest.raises(AttributeError, match=r"11\.1 has no IBuilder\.platform_has_fast_fp16"):
        _ = builder.platform_has_fast_fp16
    with pytest.raises(AttributeError, match=r"8\.6\.1 has no IBuilderConfig\.progress_monitor"):
        acted("8.6.1").tensorrt.Builder(world.tensorrt.ILogger()).create_builder_config().progress_monitor = None


@pytest.mark.parametrize(
    ("release", "precision", "typing", "flags"),
    [
        ("8.6.1", "fp32", "weak", []),
        ("8.6.1", "fp16", "weak", ["FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        ("8.6.1", "int8", "weak", ["INT8", "OBEY_PRECISION_CONSTRAINTS"]),
        *[(release, precision, "strong", []) for release in RELEASES[1:] for precision in ("fp32", "fp16", "int8")],
        *[(release, "bf16", "strong", []) for release in RELEASES[1:]],
    ],
)
def test_each_release_is_spoken_to_in_its_own_words(acted, graphs, tmp_path, release, precision, typing, flags):
    world = acted(release)
    graph = graphs("quantized") if precision == "int8" else graphs("vit", precision)
    report, _ = build_here(graph, precision, tmp_path)
    bits = world.enums["NetworkDefinitionCreationFlag"]
    names = [] if release == "11.1" else ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if typing == "strong" else [])]
    assert world.values("create_network") == [sum(1 << bits[name] for name in names)]
    # TF32 is on in a new configuration and must be off: an fp32 island in TF32 is none.
    assert world.values("build") == [{"strong": typing == "strong", "flags": flags}]
    assert (report.typing, report.identity.file_name) == (typing, f"engine.sm87.{release}.{precision}.plan")
    assert [dataclasses.astuple(tensor) for tensor in report.tensors] == [
        ("image", "uint8", (1, 32, 48, 3), True),
        ("features", precision if precision != "int8" else "fp32", (1, 16, 4, 6), False),
    ]


def test_bf16_is_refused_where_the_release_or_the_gpu_has_none(acted, graphs, tmp_path):
    acted("8.6.1")
    with pytest.raises(BuildError, match=r"TensorRT 8\.6\.1 cannot build bf16; use --engine trt-fp16"):
        build_here(graphs("vit", "bf16"), "bf16", tmp_path)
    acted("10.3.0", sm=75)
    with pytest.raises(BuildError, match=r"SM 75 has no bf16"):
        build_here(graphs("vit", "bf16"), "bf16", tmp_path)


def test_weak_typing_pins_islands_scores_and_softmax(acted, graphs, tmp_path):
    world = acted("8.6.1")
    report, _ = build_here(graphs("vit_with_islands"), "fp16", tmp_path)
    # By hand: LayerNorm is an fp32 island, qk feeds the softmax, softmax is always fp32. Casts are left alone, and
    # Reshape and Transpose as well though they lie in the island: they do not compute, and to pin them is an error.
    assert sorted(world.values("set_output_type")) == [
        ["norm_out", "FLOAT"],
        ["probabilities", "FLOAT"],
        ["scores", "FLOAT"],
    ]
    assert report.pinned_layers == 3


def test_strong_typing_that_fails_is_followed_by_weak_typing_on_10_3(acted, graphs, tmp_path):
    world = acted("10.3.0", strong_fails=True)
    report, events = build_here(graphs("vit", "fp16"), "fp16", tmp_path)
    assert world.values("build") == [
        {"strong": True, "flags": []},
        {"strong": False, "flags": ["FP16", "OBEY_PRECISION_CONSTRAINTS"]},
    ]
    assert [attempt.typing for attempt in report.attempts] == ["strong", "weak"]
    assert "no implementation" not in (report.attempts[1].error or "") and report.attempts[1].error is None
    assert "implementation for node attention" in str(report.attempts[0].error)
    assert any(event["event"] == "warning" and "strong typing failed" in event["message"] for event in events)


def test_when_every_typing_fails_each_tells_its_own_reason(acted, graphs, tmp_path):
    acted("10.3.0", strong_fails=True, build_fails=True)
    with pytest.raises(BuildError, match=r"^strong typing: .*Error Code 10.*; weak typing: .*: it gave no reason$"):
        build_here(graphs("vit", "fp16"), "fp16", tmp_path)


def test_strong_typing_that_fails_ends_the_build_where_there_is_no_other(acted, graphs, tmp_path):
    acted("11.1", strong_fails=True)
    with pytest.raises(BuildError, match=r"^TensorRT 11\.1 did not build the graph: Error Code 10"):
        build_here(graphs("vit", "fp16"), "fp16", tmp_path)


@pytest.mark.parametrize(("release", "typing"), [("8.6.1", "strong"), ("11.1", "weak")])
def test_a_typing_that_the_release_lacks_is_refused(acted, graphs, tmp_path, release, typing):
    acted(release)
    with pytest.raises(BuildError, match=f"TensorRT {release} has no {typing} typing; it has"):
        build_here(graphs("vit", "fp16"), "fp16", tmp_path, typing=typing)


@pytest.mark.parametrize("release", RELEASES)
def test_settings_reach_the_builder(acted, graphs, tmp_path, release):
    world = acted(release, dla_cores=1, sm=86)
    settings = {"optimization_level": 2, "workspace_bytes": 64 * MIB, "is_version_compatible": True, "dla_core": 0}
    report, _ = build_here(graphs("vit"), "fp32", tmp_path, hardware_compatibility="ampere+", **settings)
    assert world.values("IBuilderConfig.builder_optimization_level") == [2]
    assert world.values("set_memory_pool_limit") == [["WORKSPACE", 64 * MIB]]
    assert world.values("IBuilderConfig.hardware_compatibility_level") == ["AMPERE_PLUS"]
    assert world.values("IBuilderConfig.DLA_core") == [0]
    assert world.values("set_flag") == ["VERSION_COMPATIBLE", "GPU_FALLBACK"]
    assert world.values("parser.set_flag") == ["NATIVE_INSTANCENORM"]
    assert (report.hardware_compatibility, report.is_version_compatible) == ("ampere+", True)


def test_settings_that_the_release_or_board_lacks_are_refused(acted, graphs, tmp_path):
    acted("10.3.0", sm=86)
    with pytest.raises(SpecError, match=r"10\.3\.0 has no hardware compatibility 'same-cc'; it has ampere\+"):
        build_here(graphs("vit"), "fp32", tmp_path, hardware_compatibility="same-cc")
    with pytest.raises(SpecError, match=r"DLA core 0 was asked for and this board has no DLA .*leave out --dla"):
        build_here(graphs("vit"), "fp32", tmp_path, dla_core=0)
    acted("10.3.0", dla_cores=2)
    with pytest.raises(SpecError, match=r"DLA core 2 was asked for and this board has 2 DLA cores"):
        build_here(graphs("vit"), "fp32", tmp_path, dla_core=2)
    for sm in (87, 110):
        acted("10.3.0", sm=sm)
        with pytest.raises(SpecError, match=f"--hardware-compatibility ampere.* is not for Jetson .SM {sm}."):
            build_here(graphs("vit"), "fp32", tmp_path, hardware_compatibility="ampere+")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimization_level": 6}, "optimisation level 6 is not in 0 to 5"),
        ({"workspace_bytes": 512}, "workspace of 512 bytes is under 1 MiB; give for instance 512MiB"),
        ({"max_memory_bytes": 3}, "max-mem of 3 bytes is under 1 MiB"),
        ({"hardware_compatibility": "all"}, "hardware compatibility 'all' is not one of none, ampere"),
        ({"typing": "loose"}, "typing 'loose' is not one of auto, strong, weak"),
        ({"dla_core": -1}, "DLA core -1 is negative"),
        ({"rtx_capabilities": (87,)}, "are not among those of TensorRT-RTX: 75, 80"),
        ({"rtx_capabilities": ()}, "are not among those of TensorRT-RTX"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        EngineSettings(**settings)


def test_workspace_is_half_of_the_free_memory_and_within_the_limit(acted, graphs, tmp_path):
    world = acted(free=600 * MIB)
    build_here(graphs("vit"), "fp32", tmp_path)
    build_here(graphs("vit"), "fp32", tmp_path, max_memory_bytes=100 * MIB)
    assert world.values("set_memory_pool_limit") == [["WORKSPACE", 300 * MIB], ["WORKSPACE", 100 * MIB]]


def test_workspace_on_a_board_counts_what_the_kernel_can_free_and_the_parent(acted, graphs, tmp_path, monkeypatch):
    world = acted(free=100 * MIB, integrated=True)
    meminfo, parent = tmp_path / "meminfo", 50 * MIB
    meminfo.write_text("MemTotal: 4194304 kB\nMemAvailable:   614400 kB\nSwapFree:   8388608 kB\n")
    monkeypatch.setattr("brixel_edge.machine.memory._MEMINFO", meminfo)
    monkeypatch.setattr("brixel_edge.export.engine.memory.parent_rss_bytes", lambda: parent)
    build_here(graphs("vit"), "fp32", tmp_path)
    meminfo.write_text("MemAvailable:   614400 kB\nSwapFree:   0 kB\n")
    build_here(graphs("vit"), "fp32", tmp_path)
    # By hand: 600 MiB available, 50 of the parent if there is swap for it; half of that.
    assert world.values("set_memory_pool_limit") == [["WORKSPACE", 325 * MIB], ["WORKSPACE", 300 * MIB]]


SKIPPED = ("WARNING", "Skipping tactic 0x3 due to insufficient memory on requested size of 5368709120 detected.")
NO_TACTIC = ("ERROR", "Error Code 10: Could not find any implementation for node attention.")
OTHER = ("ERROR", "Error Code 2: Assertion axis >= 0 failed.")
FAILED = ("ERROR", "Error Code 1: Cuda Runtime (out of memory)")


@pytest.mark.parametrize(
    ("says", "is_memory"),
    [
        ([SKIPPED, OTHER], False),
        ([FAILED, SKIPPED, OTHER], False),
        ([SKIPPED, OTHER, NO_TACTIC], False),
        ([SKIPPED, NO_TACTIC], True),
        ([FAILED], True),
        ([SKIPPED, FAILED], True),
        ([NO_TACTIC], False),
    ],
)
def test_a_skipped_tactic_is_no_lack_of_memory(acted, graphs, tmp_path, says, is_memory):
    acted("11.1", build_says=says, build_fails=True)
    with pytest.raises(MemoryBudgetError if is_memory else BuildError):
        build_here(graphs("vit"), "fp32", tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"sm": 86}, {"multiprocessors": 4}, {"total": 8 << 30}, {"driver_cuda": 12020}, {"gpu": "Orin Nano"}],
)
def test_devices_that_differ_in_anything_share_no_timing_cache(acted, change):
    from brixel_edge.export.engine.timing_cache import timing_cache_name
    from brixel_edge.machine.cuda import current_device

    def name(build="10.3.0.30", **facts):
        return timing_cache_name(current_device(acted(**facts).cudart).identity(build))

    assert name() == name()
    assert len({name(), name(**change), name(build="10.3.0.26")}) == 3


def test_an_engine_over_the_memory_limit_is_refused_with_its_items(acted, graphs, tmp_path):
    acted(weights=3 * MIB, activations=2 * MIB)
    # By hand: image 32 x 48 x 3 bytes and features 16 x 4 x 6 fp32, on the device and pinned: 12288 bytes = 0.01 MiB.
    with pytest.raises(MemoryBudgetError, match=r"5\.0 MiB \(weights 3\.0 MiB, activations 2\.0 MiB, buffers 0\.0 MiB"):
        build_here(graphs("vit"), "fp32", tmp_path, max_memory_bytes=5 * MIB)
    with pytest.raises(MemoryBudgetError):
        build_here(graphs("vit"), "fp32", tmp_path, max_memory_bytes=5 * MIB + 12287)
    report, _ = build_here(graphs("vit"), "fp32", tmp_path, max_memory_bytes=5 * MIB + 12288)
    assert (report.weights_bytes, report.activation_bytes) == (3 * MIB, 2 * MIB)


def test_timing_cache_is_keyed_written_and_taken_again(acted, graphs, tmp_path):
    world = acted("10.3.0", gpu="Orin Nano (8GB)")
    folder = tmp_path / "cache"
    report, _ = build_here(graphs("vit"), "fp32", tmp_path, timing_cache_dir=folder)
    assert re.fullmatch(r"timing\.10\.3\.0\.sm87\.orin-nano-8gb\.[0-9a-f]{12}\.cache", str(report.timing_cache))
    assert [path.name for path in folder.iterdir()] == [report.timing_cache]
    stored = (folder / report.timing_cache).read_bytes()
    build_here(graphs("vit"), "fp32", tmp_path, timing_cache_dir=folder)
    assert world.values("set_timing_cache") == [0, len(stored)]


def test_timing_cache_that_tensorrt_refuses_is_replaced(acted, graphs, tmp_path):
    world = acted("10.3.0")
    report, _ = build_here(graphs("vit"), "fp32", tmp_path)
    name = str(report.timing_cache)
    (tmp_path / name).write_bytes(b"of another device")
    _, events = build_here(graphs("vit"), "fp32", tmp_path)
    assert world.values("set_timing_cache") == [0, 0]
    assert (tmp_path / name).read_bytes() == b"timings of 10.3.0"
    assert [event["message"] for event in events if event["event"] == "warning"] == [
        f"{name} was not accepted by TensorRT; starting a new timing cache"
    ]


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0"])
def test_parser_errors_are_one_line(acted, graphs, tmp_path, release):
    errors = [("sample_3", "GridSample", "Assertion failed:\n  mode"), ("fc", "MatMul", "no"), ("fc", "MatMul", "no")]
    acted(release, parser_errors=errors)
    where = "node 7" if release == "8.6.1" else "GridSample sample_3"  # 8.6 does not know names
    with pytest.raises(
        BuildError, match=f"cannot read the graph: {where}: Assertion failed: mode \\(and 1 more\\)"
    ) as caught:
        build_here(graphs("vit"), "fp32", tmp_path, typing="auto")
    assert "\n" not in str(caught.value)


def test_a_build_that_gives_nothing_tells_tensorrts_reason(acted, graphs, tmp_path):
    acted("11.1", build_fails=True, build_says=[["ERROR", "Internal Error:\n type inference failed"]])
    with pytest.raises(BuildError, match="did not build the graph: Internal Error: type inference failed"):
        build_here(graphs("vit"), "fp32", tmp_path)
    acted("11.1", build_fails=True)
    with pytest.raises(BuildError, match="it gave no reason"):
        build_here(graphs("vit"), "fp32", tmp_path)


def test_out_of_memory_behind_no_implementation_is_called_by_its_name(acted, graphs, tmp_path):
    says = [
        ["WARNING", "Tactic Device request: 4096MB Available: 1200MB. Tactic skipped: insufficient memory"],
        ["ERROR", "Error Code 10: Could not find any implementation for node {ForeignNode[fc]}."],
    ]
    world = acted("10.3.0", build_fails=True, build_says=says)
    with pytest.raises(MemoryBudgetError, match=r"ran out of device memory while building .*; use a smaller --size"):
        build_here(graphs("vit", "fp16"), "fp16", tmp_path)
    assert world.count("build") == 1  # weak typing would run out too


def test_what_is_missing_is_named_with_what_to_install(acted, graphs, tmp_path, monkeypatch):
    acted("10.3.0", no_gpu=True)
    with pytest.raises(
        BackendMissing, match=r"no usable NVIDIA device: .*cudaErrorNoDevice \(100\); TensorRT needs a GPU"
    ):
        build_here(graphs("vit"), "fp32", tmp_path)
    acted("10.3.0", no_builder=True)
    with pytest.raises(BuildError, match=r"cannot start: CUDA initialization failure"):
        build_here(graphs("vit"), "fp32", tmp_path)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    with pytest.raises(BackendMissing, match=r'pip install "cuda-python>=12\.6,<13"'):
        build_here(graphs("vit"), "fp32", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendMissing, match=r"--system-site-packages\); on x86 with an NVIDIA GPU pip install 'brixel-edge\[trt\]'"
    ):
        build_here(graphs("vit"), "fp32", tmp_path)


def test_old_cuda_python_is_found_under_its_old_name(acted, graphs, tmp_path, monkeypatch):
    world = acted("8.6.1")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", world.cudart)
    report, _ = build_here(graphs("vit"), "fp32", tmp_path)
    assert report.cuda_version == 12060


def test_known_troubles_of_the_target_are_told_before_the_build(acted, graphs, tmp_path):
    acted("10.3.0")
    report, events = build_here(graphs("vit", "fp16"), "fp16", tmp_path)
    assert any("NVIDIA/TensorRT#4723" in line for line in report.warnings)
    kinds = [event["event"] for event in events]
    assert kinds.index("warning") < kinds.index("phase")
    assert "Detected subnormal FP16 values." in report.warnings


def test_report_of_another_version_or_shape_is_refused(acted, graphs, tmp_path):
    acted("10.3.0")
    record = build_here(graphs("vit"), "fp32", tmp_path)[0].to_json()
    assert EngineReport.from_json(json.loads(json.dumps(record))).to_json() == record
    with pytest.raises(BundleError, match="engine report has version 9, this release reads 1; rebuild it"):
        EngineReport.from_json({**record, "report_version": 9})
    with pytest.raises(BundleError, match="engine report is not readable"):
        EngineReport.from_json({**record, "surprise": 1})


def test_building_process_imports_neither_torch_nor_onnx():
    code = (
        "import sys, brixel_edge.export.engine.build; "
        "print([m for m in ('torch', 'onnx', 'timm', 'onnxruntime', 'tensorrt') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_turing_is_refused_for_fp32_products_where_tensorrt_rtx_is_not_installed_too(graphs):
    """The patch embedding, three linears and two products of attention, by hand."""
    facts = graph_facts(graphs("vit", "fp32"))
    message = r"no fp32 products for SM 75 \(Turing\), g\.onnx keeps 6 of them in fp32; leave 75 out of --rtx-sm"
    with pytest.raises(SpecError, match=message):
        check_rtx_graph(facts, "g.onnx", (75, 86))
    check_rtx_graph(facts, "g.onnx", (86, 89))
    check_rtx_graph(graph_facts(graphs("vit", "fp16")), "g.onnx", (75,))
