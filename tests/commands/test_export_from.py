"""Engines added on a board to what a workstation exported: no torch, in place, proven, small."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import all_integer
import cv2
import jsonschema
import numpy as np
import pytest
import small_graphs
from receipts import receipt_of

from brixel_edge.commands import export_from
from brixel_edge.commands.export import main
from brixel_edge.commands.export_from import add_engines
from brixel_edge.commands.export_from_request import FromRequest
from brixel_edge.errors import BuildError, ParityError, SpecError
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import TRT_INT8_NAME, graph_name, open_bundle, write_receipt
from brixel_edge.model.engine_choice import engine_choices
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.receipt import SCHEMA_PATH
from brixel_edge.model.receipt_sections import Int8Speed, Islands, Measured
from brixel_edge.model.spec import ImageSpec, ModelSpec
from brixel_edge.proof.parity import compare
from brixel_edge.proof.proof import load_proof, proof_from_references, save_proof

STAND_INS = Path(__file__).parents[1] / "stand_ins"
PLAN = "engine.sm87.10.3.0.fp16.plan"
# What a board has none of; a process that imports one of them fails.
ABSENT = ("torch", "timm", "onnxscript", "onnxsim", "skimage", "torchvision", "safetensors")
BLOCKER = """
import importlib.abc, os, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["BRIXEL_ABSENT"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
IMAGES = [np.full((1, 32, 48, 3), value, np.uint8) for value in (10, 60, 200)]


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Processes live in a world: TensorRT 10.3.0 acted, and none of the workstation's packages."""
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    folders = [tmp_path / "blocker", STAND_INS / "process", STAND_INS]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.setenv("BRIXEL_ABSENT", ",".join(ABSENT))
    record = tmp_path / "calls.jsonl"

    def live(**faults):
        world = {"release": "10.3.0", "record_path": str(record), **faults}
        monkeypatch.setenv("BRIXEL_ACTED_WORLD", json.dumps(world))

    live()
    return live


def spec():
    image = ImageSpec(height=32, width=48, mean=(0, 0, 0), std=(1, 1, 1))
    return ModelSpec(
        backbone="x", patch_px=8, dim=16, tap_layers=(0,), adapter="none", image=image, grid=(4, 6), licence="none"
    )


def acted_features(images, added=1.0):
    """What the acted engine gives, by hand: the mean of the image, and one for the place of the output."""
    return [np.full((1, 16, 4, 6), image.mean() + added, np.float32) for image in images]


@pytest.fixture
def directory(tmp_path):
    """An exported directory with fp32 and fp16 graphs; the acted engine computes what its proof says."""

    def make(*, added=1.0, precisions=("fp32", "fp16"), ranging=True):
        root = tmp_path / "m.brixel"
        root.mkdir()
        for precision in precisions:
            small_graphs.save(small_graphs.vit(precision), root / graph_name(precision))
        references = acted_features(IMAGES, added)
        others = [IMAGES[0] + 1] if ranging else []
        save_proof(proof_from_references(["a", "b", "c"], IMAGES, references, ranging=others), root / "proof.npz")
        islands = Islands(level="measured", photographs=("d",), nodes=1, reasons={})
        halves = [precision for precision in precisions if precision != "fp32"]
        receipt = receipt_of(
            spec(),
            measured=Measured(created_utc="2026-01-01T00:00:00+00:00"),
            samplers={graph_name(precision): "gridsample" for precision in precisions},
            islands={graph_name(precision): islands for precision in halves},
        )
        write_receipt(root, receipt)
        return root

    return make


def request(root, engines="trt-fp16", **parts):
    return FromRequest(root=root, engines=engine_choices(engines), settings=EngineSettings(), **parts)


def contents(root):
    return {path.name: sha256_of(path) for path in root.iterdir()}


def test_a_board_without_torch_adds_a_proven_engine_in_place(board, directory):
    root = directory()
    before = contents(root)
    code = "import sys; from brixel_edge.commands.export import main; code = main(sys.argv[1:]); "
    code += (
        "loaded = {'onnx', 'onnxruntime', 'cv2', 'tensorrt', 'cuda'} & set(sys.modules); assert not loaded, loaded; "
    )
    code += "sys.exit(code)"
    run = subprocess.run(
        [sys.executable, "-c", code, "--from", str(root), "--engine", "trt-fp16", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    jsonschema.validate({key: record[key] for key in record if key != "out"}, json.loads(SCHEMA_PATH.read_text()))
    receipt = open_bundle(root).receipt
    assert receipt.engines[PLAN].proven and receipt.engines[PLAN].graph == "graph.fp16.onnx"
    parity = receipt.parity[PLAN]
    assert (parity.gate, parity.photographs, parity.images) == ("fp16", ("a", "b", "c"), 3)
    assert parity.cosine_mean > 0.9999 and parity.backend == "trt 10.3.0"
    assert [(entry.engine, entry.made.precision) for entry in receipt.also_requested or ()] == [("trt-fp16", "fp16")]
    after = contents(root)
    kept = {name: digest for name, digest in before.items() if name != "model.json"}
    assert kept.items() <= after.items()
    assert {name for name in after if not name.startswith("timing.")} - set(before) == {PLAN, f"{PLAN}.json"}
    for name in receipt.files:
        open_bundle(root).file(name)


def test_the_process_that_waits_for_the_builder_stays_under_200_mb(board, directory):
    root = directory()
    code = (
        "import sys; from brixel_edge.commands.export import main; from brixel_edge.machine.memory import *; "
        "code = main(sys.argv[1:]); print(peak_rss_bytes()); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "--from", str(root), "--engine", "trt-fp16"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    peak = int(run.stdout.splitlines()[-1])
    print(f"peak of the parent: {peak / 1e6:.1f} MB")
    assert peak < 200e6


def test_a_wrong_engine_leaves_the_directory_as_it_was(board, directory):
    root = directory(added=-300.0)
    before = contents(root)
    with pytest.raises(ParityError, match=r"none of 4 plans passed"):
        add_engines(request(root), lambda line: None)
    after = contents(root)
    assert before.items() <= after.items() and set(after) - set(before) == {"failed.json"}
    tried = json.loads((root / "failed.json").read_text())["attempts"]
    assert [(entry["precision"], entry["islands"]) for entry in tried] == [
        ("fp16", "measured"), ("fp16", "wide"), ("bf16", "measured"), ("fp32", None),
    ]  # fmt: skip
    assert [path.name for path in root.parent.iterdir() if path.name.startswith(".m")] == []


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("8.6.1", ["weak"] * 2),  # has no strong typing
        ("10.3.0", ["strong", "weak"]),
        ("10.13.0", ["strong", "weak"]),
        ("11.1", ["strong"] * 2),  # has no weak typing
    ],
)
def test_weak_typing_is_tried_where_the_release_has_it_and_the_strong_engine_is_wrong(
    board, directory, monkeypatch, release, expected
):
    """Strong engines are wrong, and so are the only ones of 8.6 and of 11: then the next plan is built.

    Wide islands and bf16 end with their graphs here, which are not those of the proof; fp32 is there already.
    """
    board(release=release)
    root, seen, plan = directory(), [], PLAN.replace("10.3.0", release)
    is_wrong = {"10.3.0": {"strong"}, "10.13.0": {"strong"}}.get(release, {"strong", "weak"})
    right = export_from.engine_parity

    def wrong_if_strong(plan, *rest):
        report = json.loads(plan.with_name(plan.name + ".json").read_text())
        seen.append(report["typing"])
        result = right(plan, *rest)
        return type(result)(**{**vars(result), "cosine_mean": 0.5}) if report["typing"] in is_wrong else result

    monkeypatch.setattr(export_from, "engine_parity", wrong_if_strong)
    monkeypatch.setattr("brixel_edge.commands.export_request.has_tensorrt", lambda kind: True)
    if len(is_wrong) == 2:
        with pytest.raises(ParityError, match="none of 4 plans passed"):
            add_engines(request(root), lambda line: None)
        assert seen == expected
        return
    receipt = add_engines(request(root), lambda line: None)
    assert seen == expected
    report = receipt.engines[plan].report
    assert report.typing == "weak"
    assert [(attempt.typing, attempt.error is None) for attempt in report.attempts] == [
        ("strong", False),
        ("weak", True),
    ]


def test_a_weak_engine_that_is_wrong_too_leaves_the_strong_ones_figures(board, directory, monkeypatch):
    root, figures = directory(), iter([0.5, 0.6] * 4)
    right = export_from.engine_parity
    wrong = lambda *arguments: replace(right(*arguments), cosine_mean=next(figures))  # noqa: E731
    monkeypatch.setattr(export_from, "engine_parity", wrong)
    with pytest.raises(ParityError, match="none of 4 plans passed"):
        add_engines(request(root), lambda line: None)
    tried = json.loads((root / "failed.json").read_text())["attempts"]
    # Of fp16 the strong engine and then the weak one; of fp32 there is one typing.
    found = [next(iter(tried[place]["parity"].values()))["cosine_mean"] for place in (0, -1)]
    assert found == [0.5, 0.5] and next(figures) == 0.6


def test_a_failed_build_is_said_and_nothing_is_left(board, directory):
    board(build_fails=True)
    root = directory()
    before = contents(root)
    with pytest.raises(BuildError, match=r"weak typing: TensorRT 10\.3\.0 did not build the graph"):
        add_engines(request(root, "trt-fp32"), lambda line: None)
    assert {name: digest for name, digest in contents(root).items() if name != "failed.json"} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "trt-int8"], "on the workstation: brixel-export --from m.brixel --engine onnx-int8 --calib SRC"),
        ([], "needs --engine, for instance trt-fp16, or --for a board"),
        (["--engine", "trt-fp16", "--size", "64x64"], "--size was decided when"),
        (["--engine", "onnx-fp16", "--backbone", "x"], "--backbone was decided when"),
    ],
)
def test_refusals_of_from(board, directory, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("brixel_edge.commands.export_request.has_tensorrt", lambda kind: True)
    root = directory()
    before = contents(root)
    assert main(["--from", str(root), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert contents(root) == before


def test_a_directory_without_a_proof_is_refused(directory, capsys):
    root = directory()
    receipt = open_bundle(root).receipt
    (root / "proof.npz").unlink()
    write_receipt(root, receipt)
    assert main(["--from", str(root), "--engine", "onnx-fp16"]) == 2
    assert "has no proof.npz, so that nothing could be proven" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fp32_only(mini_fp16_bundle, tmp_path_factory):
    """What a workstation exported, less its fp16 graph."""
    root = tmp_path_factory.mktemp("from") / "m.brixel"
    shutil.copytree(mini_fp16_bundle, root)
    receipt = open_bundle(root).receipt
    (root / "graph.fp16.onnx").unlink()
    write_receipt(root, receipt)
    return root


def test_a_board_makes_the_graph_that_is_missing_without_torch(board, fp32_only, mini_fp16_bundle, tmp_path):
    root = tmp_path / "m.brixel"
    shutil.copytree(fp32_only, root)
    code = "import sys; from brixel_edge.commands.export import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, "--from", str(root), "--engine", "onnx-fp16"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    # The same photographs were ranged on, so that the graph is the workstation's, to the bit.
    assert sha256_of(root / "graph.fp16.onnx") == sha256_of(mini_fp16_bundle / "graph.fp16.onnx")
    receipt = open_bundle(root).receipt
    assert receipt.parity["graph.fp16.onnx"].photographs == ("a", "b")
    assert receipt.islands["graph.fp16.onnx"].photographs == ("proof.npz:0",)


def test_ranges_are_never_measured_on_the_photographs_that_judge(board, fp32_only, tmp_path, capsys):
    root = tmp_path / "m.brixel"
    shutil.copytree(fp32_only, root)
    proof = load_proof(root / "proof.npz")
    save_proof(proof_from_references(proof.names, [image[None] for image in proof.images],
                                     [features[None] for features in proof.features]), root / "proof.npz")  # fmt: skip
    write_receipt(root, open_bundle(root).receipt)
    assert main(["--from", str(root), "--engine", "onnx-fp16"]) == 2
    assert "no photographs to measure ranges on; give --calib SRC" in capsys.readouterr().err


@pytest.fixture
def perfect_engines(board, monkeypatch):
    """Engines compute what PyTorch does, since the acted ones cannot, and INT8 is 1.5 times as fast."""
    found = compare([np.ones((1, 2, 1, 1))] * 2, [np.ones((1, 2, 1, 1))] * 2)
    speed = Int8Speed(int8_ms={"i": 2.0}, float_ms={"f": 3.0}, speedup=1.5, message="1.50 times faster")
    monkeypatch.setattr(export_from, "engine_parity", lambda *arguments: found)
    monkeypatch.setattr(export_from, "int8_speed", lambda *arguments, **options: speed)


@pytest.fixture
def quantised(mini_fp16_bundle, mini_images, tmp_path):
    """What a workstation exported, and quantised for the CPU: fp32 around its integers."""
    root = tmp_path / "m.brixel"
    shutil.copytree(mini_fp16_bundle, root)
    all_integer.write(root / "graph.fp32.onnx", mini_images[:2], root / "graph.int8.onnx")
    receipt = open_bundle(root).receipt
    write_receipt(root, replace(receipt, samplers={**receipt.samplers, "graph.int8.onnx": "gridsample"}))
    return root


INT8_PLAN = "engine.sm87.10.3.0.int8.plan"


def test_int8_of_the_workstation_gets_half_precision_around_it_and_its_own_name(perfect_engines, quantised):
    before = contents(quantised)
    receipt = add_engines(request(quantised, "trt-int8"), lambda line: None)
    assert before.items() - {("model.json", before["model.json"])} <= contents(quantised).items()
    assert receipt.engines[INT8_PLAN].graph == TRT_INT8_NAME
    assert receipt.engines[PLAN].graph == "graph.fp16.onnx"  # what INT8 is measured against
    kinds = receipt.precisions[TRT_INT8_NAME]
    assert kinds["LayerNormalization"] == {"fp16": 33} and kinds["QuantizeLinear"].keys() == {"int8"}
    assert graph_facts(quantised / "graph.int8.onnx").operator_types["LayerNormalization"] == {"fp32": 33}
    parity = receipt.parity[TRT_INT8_NAME]
    assert (parity.gate, parity.photographs) == ("int8", ("a", "b"))
    assert parity.backend == "onnxruntime, every half tensor rounded"
    assert receipt.islands[TRT_INT8_NAME].photographs == ("proof.npz:0",)
    (asked,) = receipt.also_requested or ()
    assert (asked.engine, asked.made.precision, asked.is_first_choice) == ("trt-int8", "fp16", True)
    assert receipt.measured.int8_speed is not None and receipt.measured.int8_speed.speedup == 1.5
    # Typed once, it is taken as it is.
    typed = sha256_of(quantised / TRT_INT8_NAME)
    again = add_engines(request(quantised, "trt-int8"), lambda line: None)
    assert sha256_of(quantised / TRT_INT8_NAME) == typed and again.parity[TRT_INT8_NAME] == parity


def test_int8_that_does_not_pay_on_the_board_is_not_added(perfect_engines, quantised, monkeypatch):
    def too_slow(folder, spec, min_speedup, *, for_tensorrt):
        assert min_speedup == 1.1 and for_tensorrt and (folder / INT8_PLAN).is_file() and (folder / PLAN).is_file()
        raise BuildError("1.02 times faster, less than the 1.1 times that INT8 must gain")

    monkeypatch.setattr(export_from, "int8_speed", too_slow)
    before = contents(quantised)
    with pytest.raises(BuildError, match=r"1\.02 times"):
        add_engines(request(quantised, "trt-int8", min_speedup=1.1), lambda line: None)
    after = contents(quantised)
    assert after.pop("failed.json") and after == before


@pytest.fixture(scope="module")
def seen(photographs, tmp_path_factory):
    """16 pictures of what the device sees, as files."""
    folder = tmp_path_factory.mktemp("seen")
    for number in range(16):
        picture = np.roll(photographs[number % 4], 37 * (number + 1), axis=1)
        cv2.imwrite(str(folder / f"{number}.png"), picture[: 320 - 4 * number, : 480 - 6 * number])
    return folder


def test_a_board_quantises_on_frames_of_its_own_without_torch(perfect_engines, fp32_only, seen, tmp_path):
    root = tmp_path / "m.brixel"
    shutil.copytree(fp32_only, root)
    receipt = add_engines(request(root, "trt-int8", calib=str(seen)), lambda line: None)
    assert receipt.int8 is not None and receipt.int8.kind == "static"
    assert receipt.int8.files == ("calib.json", "plan.json", TRT_INT8_NAME)
    assert set(receipt.int8.files) < set(receipt.files)
    assert len(set((receipt.int8.frames_sha256 or {}).values())) == 3
    assert receipt.precisions[TRT_INT8_NAME]["LayerNormalization"] == {"fp16": 33}
    # Ranges of fp16 come from frames that calibrated: 16 less two that chose and five that judged.
    assert len(receipt.islands[TRT_INT8_NAME].photographs) == receipt.int8.frames["calibration"] == 9
    assert receipt.engines[INT8_PLAN].graph == TRT_INT8_NAME
    assert not {"frames.npy", "work"} & {path.name for path in root.iterdir()}


def test_frames_that_calibrate_may_not_be_the_proofs(perfect_engines, fp32_only, mini_images, seen, tmp_path):
    root, shared = tmp_path / "m.brixel", tmp_path / "shared"
    shutil.copytree(fp32_only, root)
    shutil.copytree(seen, shared)
    cv2.imwrite(str(shared / "z.png"), mini_images[0][0])
    before = contents(root)
    with pytest.raises(SpecError, match=r"1 photographs of the proof are in --calib .*shared too \(a\)"):
        add_engines(request(root, "trt-int8", calib=str(shared)), lambda line: None)
    assert contents(root) == before


def test_what_waits_for_the_compiler_knows_no_graphs():
    absent = {"onnx", "onnxruntime", "cv2", "torch"}
    code = f"import sys, brixel_edge.commands.export_from; print({absent} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_process_that_waits_for_tensorrt_rtx_stays_under_200_mb(directory):
    """The real builder, which takes over a gigabyte, is in a process of its own."""
    root = directory()
    code = (
        "import sys; from brixel_edge.commands.export import main; from brixel_edge.machine.memory import *; "
        "code = main(sys.argv[1:]); print(peak_rss_bytes()); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--from", str(root), "--engine", "trt-rtx", "--rtx-sm", "86"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) < 200e6
    (built,) = open_bundle(root).receipt.engines.values()
    assert built.backend.startswith("trt-rtx 1.") and not built.proven
