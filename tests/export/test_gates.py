"""Gates that cannot be fooled: what was planted once and passed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

from brixel_edge.commands.export_job import Job, proof_photographs
from brixel_edge.commands.export_steps import export_directory
from brixel_edge.errors import ParityError, SpecError
from brixel_edge.export.facts import Photographs
from brixel_edge.export.gate import passed
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.half.islands import find_islands
from brixel_edge.export.half.ranges import measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.export.judges import OrtJudge
from brixel_edge.export.ladder import GateMissedError
from brixel_edge.model.bundle import MANIFEST_NAME, staged_directory
from brixel_edge.model.engine_choice import engine_choices
from brixel_edge.proof.parity import compare
from brixel_edge.proof.proof import load_proof


def job_of(out, student, graph, images, **parts):
    spec = spec_from_student(student, 64, 96, "brixel", name="vit_mini_dinov3")
    given = {
        "photographs": Photographs(names=["a", "b"], pixels=images[:2]),
        "ranging": Photographs(names=["c"], pixels=images[2:3]),
        "engines": engine_choices("onnx-fp16"),
        **parts,
    }
    trace = lambda sampler, path: shutil.copy(graph(sampler), path)  # noqa: E731
    return Job(out=out, student=student, spec=spec, trace=trace, **given)


def test_every_judge_gates_and_not_the_first_alone():
    reference = [np.random.default_rng(0).normal(size=(1, 8, 4, 4)).astype(np.float32)]
    right, wrong = compare(reference, reference), compare(reference, [-reference[0]])
    assert passed("g", "fp16", {"one": right, "two": right}, ["a"]).also[0].cosine_mean == pytest.approx(1)
    for reports in ({"one": wrong, "two": right}, {"one": right, "two": wrong}):
        with pytest.raises(GateMissedError, match=r"g .(one|two). differs from PyTorch"):
            passed("g", "fp16", reports, ["a"])


def test_ranges_are_refused_on_photographs_that_judge(tmp_path, mini_student, mini_graph, mini_images):
    shared = Photographs(names=["c", "d"], pixels=[mini_images[2], mini_images[1].copy()])
    with pytest.raises(SpecError, match="ranges would be measured on d, which is b of the proof"):
        job_of(tmp_path / "m.brixel", mini_student, mini_graph, mini_images, ranging=shared)


class SwapsChannels(OrtJudge):
    name = "swaps channels"

    def outputs(self, graph, images):
        return super().outputs(graph, [np.ascontiguousarray(image[..., ::-1]) for image in images])


@pytest.fixture
def grey_folder(tmp_path, mini_images):
    folder = tmp_path / "grey"
    folder.mkdir()
    for number, image in enumerate(mini_images):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(image[0], cv2.COLOR_BGR2GRAY))
    return folder


def test_grey_pictures_are_joined_by_ones_that_show_swapped_channels(
    tmp_path, mini_student, mini_graph, mini_images, grey_folder, capsys
):
    spec = spec_from_student(mini_student, 64, 96, "brixel", name="vit_mini_dinov3")
    photographs = proof_photographs(grey_folder, spec)
    assert len(photographs.names) == 6 and "0.png" not in photographs.names
    assert "0.png is grey and could not show a fault" in capsys.readouterr().err
    greys = [cv2.cvtColor(cv2.cvtColor(i[0], cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)[None] for i in mini_images]
    parts = {"judges": lambda precision: (SwapsChannels(),), "engines": engine_choices("onnx")}
    grey = Photographs(names=list("abc"), pixels=greys[:3])
    other = Photographs(names=["r"], pixels=greys[3:4])
    job = job_of(tmp_path / "g.brixel", mini_student, mini_graph, mini_images, photographs=grey, ranging=other, **parts)
    export_directory(job)  # the fault that such pictures cannot show
    with pytest.raises(ParityError, match="swaps channels"):
        export_directory(replace(job, photographs=photographs))


def test_verify_judges_on_every_photograph_of_the_export(mini_fp16_bundle):
    proof = load_proof(mini_fp16_bundle / "proof.npz")
    record = json.loads((mini_fp16_bundle / MANIFEST_NAME).read_text())
    assert list(proof.names) == record["parity"]["graph.fp32.onnx"]["photographs"]
    assert len(proof.images) == len(proof.features) == record["parity"]["graph.fp32.onnx"]["images"]


def test_a_tensor_within_four_times_of_overflow_stays_in_fp32(mini_graph, mini_images):
    """By hand: 65504 / 4 is 16376; a tensor of 20000 would still fit, and the next photograph's may not."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(mini_graph("gridsample"))))
    ranges = measure_ranges(model, mini_images[:1])
    others = {island.node for island in find_islands(model, ranges, "fp16")}
    add = next(node for node in model.graph.node if node.op_type == "Add" and node.name not in others)
    for largest, is_island in ((16000.0, False), (20000.0, True)):
        changed = {**ranges, add.output[0]: replace(ranges[add.output[0]], max_abs=largest)}
        reasons = {island.node: island.reason for island in find_islands(model, changed, "fp16")}
        assert reasons.get(add.name, "").startswith("range: magnitudes over 16376") == is_island


def test_what_killed_exports_left_is_cleared_and_what_runs_is_not(tmp_path):
    out = tmp_path / "m.brixel"
    code = (
        "import sys, os, signal; from pathlib import Path; from brixel_edge.model.bundle import staged_directory\n"
        "with staged_directory(Path(sys.argv[1])) as stage:\n"
        "    (stage / 'part').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    (remains,) = list(tmp_path.iterdir())
    assert remains.name.startswith(".m.brixel.")
    (tmp_path / ".m.brixel.notes").mkdir()  # somebody else's
    with staged_directory(out) as stage:
        assert not remains.exists()
        with staged_directory(out) as other:
            assert stage.exists() and other != stage
            (other / MANIFEST_NAME).write_text("{}")
    assert (tmp_path / ".m.brixel.notes").exists()


def test_a_model_that_a_killed_export_had_put_aside_comes_back(tmp_path):
    out, aside = tmp_path / "m.brixel", tmp_path / ".m.brixel.old.abcd1234" / "m.brixel"
    aside.mkdir(parents=True)
    (aside / MANIFEST_NAME).write_text("{}")
    with pytest.raises(RuntimeError), staged_directory(out):
        raise RuntimeError("another failure")
    assert (out / MANIFEST_NAME).read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["m.brixel"]


def test_bf16_for_a_release_before_10_9_keeps_its_opset(mini_graph, mini_images):
    model = onnx.shape_inference.infer_shapes(onnx.load(str(mini_graph("gridsample"))))
    ranges = measure_ranges(model, mini_images[:1])
    names = {}
    for keeps_opset in (False, True):
        islands = [island.node for island in find_islands(model, ranges, "bf16", keeps_opset=keeps_opset)]
        typed = half_from_float(model, "bf16", islands, keeps_opset=keeps_opset)  # full ONNX check inside
        names[keeps_opset] = {node.op_type for node in model.graph.node if node.name in islands}
        assert typed.opset_import[0].version == (18 if keeps_opset else 22)
    assert "Conv" in names[True] and "Conv" not in names[False] and "MatMul" not in names[True] - names[False]
