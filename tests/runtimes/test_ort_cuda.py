"""ONNX Runtime's CUDA build: chosen, asked for with lean memory, and its absence said. No GPU is needed here."""

from __future__ import annotations

import logging

import numpy as np
import onnxruntime
import pytest

from brixel_edge.model.bundle import DEFAULT_MODEL
from brixel_edge.runtimes import engines as base
from brixel_edge.runtimes.backends import ort

CUDA = "CUDAExecutionProvider"


def test_cuda_comes_first_with_lean_memory_where_the_build_has_it(monkeypatch):
    assert ort._providers() == ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    (name, options), fallback = ort._providers()
    assert (name, fallback) == (CUDA, "CPUExecutionProvider")
    assert options == {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_cuda_that_does_not_load_is_said_and_the_cpu_serves(monkeypatch, caplog):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    real = onnxruntime.InferenceSession

    def without_driver(path, options, providers):
        assert providers[0][0] == CUDA
        return real(path, options, providers=providers[1:])

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_driver)
    monkeypatch.setattr(logging.getLogger("brixel_edge"), "propagate", True)
    runtime = ort.open_engine(DEFAULT_MODEL, base.RuntimeSettings(threads=1))
    assert "CUDA did not load" in caplog.text
    assert runtime.infer(np.zeros((1, 512, 704, 3), np.uint8))["features"].shape == (1, 384, 32, 44)
    runtime.close()


def test_auto_is_onnx_runtime_where_its_cuda_build_is_installed(monkeypatch):
    monkeypatch.setattr(base, "_has_cuda_build", lambda: True)
    assert base.choose_backend("auto") == "ort"
