"""benchmarks/torch_on_gpu.py: it refuses to run without a GPU, and what it would do there is done here on the CPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from brixel_edge.errors import SpecError

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "torch_on_gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    import sys

    spec = importlib.util.spec_from_file_location("torch_on_gpu", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_without_a_gpu_it_is_one_line_and_no_figure(benchmark, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main(["--out", str(tmp_path / "cuda.json")]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "sees no CUDA device here; run it on a machine with an NVIDIA GPU" in line
    assert not list(tmp_path.iterdir())


def test_everything_but_the_gpu_itself_runs_on_a_cpu(benchmark, mini_student, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "load_backbone", lambda name: name)
    monkeypatch.setattr(benchmark, "load_student", lambda backbone, weights: mini_student)
    flags = ["--backbones", "vit_mini_dinov3", "--size", "64", "--rounds", "2", "--precisions", "fp32,bf16"]
    arguments = benchmark.build_parser().parse_args([*flags, "--forms", "eager"])
    record = json.loads(json.dumps(benchmark.run(arguments, torch.device("cpu")), allow_nan=False))
    graphs = {row["graph"]: row for row in record["numerics"]}
    assert list(graphs) == ["fp32", "fp16", "fp16, no islands", "bf16", "bf16, no islands"]
    assert all(graphs[name]["passed"] and graphs[name]["finite"] for name in ("fp32", "fp16", "bf16"))
    assert graphs["fp32"]["frobenius"] < 1e-5 < graphs["fp16"]["frobenius"] < graphs["bf16"]["frobenius"]
    assert graphs["fp16"]["islands"] > 0 == graphs["fp16, no islands"]["islands"]
    rows = [(row["what"], row["size"], row["precision"], row["form"]) for row in record["latency"]]
    assert rows == [
        ("student", 64, "fp32", "eager"),
        ("native", 256, "fp32", "eager"),
        ("student", 64, "bf16", "eager"),
        ("native", 256, "bf16", "eager"),
    ]
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in record["latency"])
    assert [row["ratio_to_student"] for row in record["latency"] if row["what"] == "student"] == [1, 1]
    assert {row["peak_bytes"] for row in record["latency"]} == {None}  # nothing is made up where nothing was measured
    assert "native 256, bf16, eager" in benchmark.table(record)


def test_names_that_are_none_are_refused(benchmark):
    with pytest.raises(SpecError, match=r"--forms 'cudagraph' is not one of eager, compiled, cuda-graph"):
        benchmark.chosen("--forms", "eager,cudagraph", benchmark.FORMS)


def test_ratios_are_those_of_the_rounds(benchmark):
    rows = [
        benchmark.Contestant(what=what, size=1, precision="fp16", form="eager", call=lambda: None, peak_bytes=None)
        for what in ("student", "native")
    ]
    student, native = benchmark.latencies("b", rows, [[1.0, 2.0, 4.0], [3.0, 4.0, 40.0]])
    assert (student["p50_ms"], native["p50_ms"]) == (2.0, 4.0)
    assert native["ratio_to_student"] == 3.0  # of 3, 2 and 10; the ratio of the medians is 2


def test_calls_leave_the_model_alone_and_weights_are_half(benchmark, mini_student):
    before = {name: value.clone() for name, value in mini_student.state_dict().items()}
    entry = benchmark.build("student", mini_student, 32, "bf16", "eager", torch.device("cpu"))
    features = entry.call()
    assert features.shape == (1, 128, 8, 8) and torch.isfinite(features).all()
    for name, value in mini_student.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
@pytest.mark.parametrize("form", ["eager", "compiled", "cuda-graph"])
def test_every_form_gives_the_same_map_on_a_gpu(benchmark, mini_student, form):
    device = benchmark.require_cuda()
    entry = benchmark.build("student", mini_student, 64, "fp32", form, device)
    reference = benchmark.build("student", mini_student, 64, "fp32", "eager", torch.device("cpu"))
    assert (entry.call().cpu() - reference.call()).abs().max() < 1e-3
    assert entry.peak_bytes > 0
