"""The gate at a first load holds for CPU backends: once a device, noted, and only a pass is believed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_bundle

from brixel_edge.errors import BundleError, ParityError
from brixel_edge.machine.cache import cache_folder
from brixel_edge.machine.processor import Processor, processor
from brixel_edge.model.bundle import open_bundle, write_receipt
from brixel_edge.runtimes import engines
from brixel_edge.runtimes.backends import first_load, passes
from brixel_edge.runtimes.backends.openvino import OpenVinoRuntime
from brixel_edge.runtimes.backends.ort import OrtRuntime
from brixel_edge.runtimes.engines import open_runtime
from brixel_edge.runtimes.runtime import RuntimeSettings

CLASSES = {"ort": OrtRuntime, "openvino": OpenVinoRuntime}
A72 = Processor(name="ARM implementer 0x41 part 0xd08", architecture="aarch64", features="0")


@pytest.fixture(params=CLASSES)
def backend(request):
    if not engines.has_backend(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def calls(monkeypatch, backend) -> list[int]:
    """Grows by one at each call of the engine."""
    seen: list[int] = []
    real = CLASSES[backend].infer
    monkeypatch.setattr(CLASSES[backend], "infer", lambda self, image: seen.append(1) or real(self, image))
    return seen


@pytest.fixture
def graph(tmp_path):
    return tiny_bundle.save(tmp_path / "m.brixel") / "graph.fp32.onnx"


def evidence(graph, backend, **settings):
    runtime = open_runtime(graph, backend, RuntimeSettings(**settings))
    runtime.close()
    return runtime.evidence


def test_a_graph_passes_once_on_a_device_and_is_asked_again_on_another(graph, backend, calls, monkeypatch):
    assert [evidence(graph, backend).kind for _ in range(3)] == ["now", "noted", "noted"]
    assert len(calls) == 3  # photographs, at the first load alone
    note = json.loads(passes.passed_path(graph, backend).read_text())
    assert (note["processor"], note["architecture"]) == (processor().name, processor().architecture)
    monkeypatch.setattr(first_load, "processor", lambda: A72)
    assert [evidence(graph, backend).kind for _ in range(2)] == ["now", "noted"]
    assert len(calls) == 6


@pytest.mark.parametrize("fact", ["engine_sha256", "backend", "processor", "architecture", "processor_features"])
def test_a_pass_holds_for_what_it_was_noted_for_alone(graph, backend, fact):
    evidence(graph, backend)
    path = passes.passed_path(graph, backend)
    path.write_text(json.dumps(json.loads(path.read_text()) | {fact: "another"}))
    assert evidence(graph, backend).kind == "now"


def test_the_backends_do_not_vouch_for_each_other(graph):
    assert [evidence(graph, backend).kind for backend in CLASSES if engines.has_backend(backend)] == ["now"] * 2
    assert {path.name for path in graph.parent.glob("*.passed.json")} == {
        "graph.fp32.onnx.ort.passed.json",
        "graph.fp32.onnx.openvino.passed.json",
    }


def test_what_is_wrong_here_is_never_handed_out_and_never_noted(graph, backend, monkeypatch):
    real = CLASSES[backend].infer

    def infer(self, image):
        outputs = real(self, image)
        outputs["features"][:, :3] += 9
        return outputs

    monkeypatch.setattr(CLASSES[backend], "infer", infer)
    for _ in range(2):
        with pytest.raises(ParityError, match=r"computes something else on .*cosine mean 0\.9.*fp32 gate"):
            evidence(graph, backend)
    assert not list(graph.parent.glob("*.passed.json"))
    assert evidence(graph, backend, is_proven_first=False).kind == "none"  # brixel-verify shows it with its figures


def test_a_folder_that_is_read_only_keeps_its_note_in_the_user_s_cache(graph, backend, calls, monkeypatch, tmp_path):
    passes.passed_path(graph, backend).mkdir()  # nothing can be written there, even by root
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "own"))
    assert [evidence(graph, backend).kind for _ in range(2)] == ["now", "noted"]
    assert len(calls) == 3
    [note] = (tmp_path / "own" / "passed").iterdir()
    assert json.loads(note.read_text())["processor"] == processor().name
    monkeypatch.setattr(first_load, "processor", lambda: A72)
    assert evidence(graph, backend).kind == "now"


def test_the_cache_is_one_place(monkeypatch, tmp_path):
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("BRIXEL_CACHE")
    assert cache_folder() == tmp_path / "b" / "brixel-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "brixel-edge"


def test_a_slow_device_compares_one_photograph(graph, backend, calls, monkeypatch):
    monkeypatch.setattr(first_load, "GATE_S", 0.0)
    assert evidence(graph, backend).text == "proven here at this first load (cosine mean 1.00000 on 1 photograph)"
    assert len(calls) == 1


def test_a_changed_proof_proves_nothing(graph, backend):
    with (graph.parent / "proof.npz").open("ab") as stream:
        stream.write(b"\x00")
    with pytest.raises(BundleError, match=r"proof\.npz differs from the file that was exported"):
        evidence(graph, backend)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "\x00"])
def test_a_note_that_is_none_is_no_pass(graph, backend, content):
    passes.passed_path(graph, backend).write_text(content)
    assert evidence(graph, backend).kind == "now"


def test_a_directory_without_a_proof_says_so(tmp_path, backend):
    root = tiny_bundle.save(tmp_path / "old.brixel", has_proof=False)
    assert evidence(root / "graph.fp32.onnx", backend).text == "not proven here: no proof lies beside it"


def test_a_float_graph_in_bf16_has_the_gate_of_bf16(graph, monkeypatch):
    pytest.importorskip("openvino")
    from brixel_edge.machine.openvino_hint import has_bf16

    if not has_bf16():
        pytest.skip("this CPU has no bfloat16")
    real = OpenVinoRuntime.infer
    noise = np.random.default_rng(0).normal(size=(1, 4, 8, 12)).astype(np.float32)

    def infer(self, image):
        outputs = real(self, image)
        outputs["features"] *= 1 + 0.01 * noise
        return outputs

    monkeypatch.setattr(OpenVinoRuntime, "infer", infer)
    assert evidence(graph, "openvino", openvino_precision="bf16").kind == "now"
    with pytest.raises(ParityError, match="fp32 gate"):
        evidence(graph, "openvino")


def test_processors_are_told_apart(tmp_path):
    def of(text):
        (tmp_path / "cpuinfo").write_text(text)
        return processor(tmp_path / "cpuinfo")

    x86 = of("processor : 0\nmodel name : Xeon\nflags : sse avx512_bf16\n\nprocessor : 1\nmodel name : Xeon\n")
    assert x86.name == "Xeon"
    assert of("model name : Xeon\nflags : avx512_bf16 sse\n") == x86
    assert of("model name : Xeon\nflags : sse\n").features != x86.features
    a72 = of("processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : 0xd08\n")
    a76 = of("processor : 0\nFeatures : fp asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd0b\n")
    assert a72.name == "ARM implementer 0x41 part 0xd08"
    assert a76.name != a72.name
    assert a76.features != a72.features
    assert processor(tmp_path / "absent").name is None


def test_notes_of_a_device_are_no_part_of_the_model(graph, backend):
    """An export that adds to a directory lists its files anew; a note that changes later must not spoil it."""
    evidence(graph, backend)
    bundle = open_bundle(graph.parent)
    files = set(bundle.receipt.files)
    assert set(write_receipt(graph.parent, bundle.receipt).files) == files
