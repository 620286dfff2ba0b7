"""The Python API as README shows it, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest


def run_python(code: str, *arguments: object, cwd: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_model_is_opened_called_and_asked(graph, photographs):
    import brixel_edge

    frame_bgr = photographs[0]
    with brixel_edge.open_model(graph) as model:
        fm = model(frame_bgr)
        heat = fm.similarity(fm.at(x=320, y=240))
    assert isinstance(fm, brixel_edge.FeatureMap)
    assert heat.shape == fm.values.shape[:2] == (8, 12)
    assert heat[fm.cell(x=320, y=240)] == pytest.approx(1, abs=1e-5)
    assert np.ptp(heat) > 0


def test_a_stream_is_a_loop(graph, photograph_paths):
    import brixel_edge

    maps = list(brixel_edge.stream(graph, source=str(photograph_paths[0])))
    assert [fm.frame_index for fm in maps] == [0]


def test_the_built_in_model_needs_no_name(photographs):
    import brixel_edge

    with brixel_edge.open_model() as model:
        fm = model(photographs[0])
    assert fm.values.shape == (*model.spec.grid, model.spec.dim)
    assert np.isfinite(fm.values).all()


def test_names_are_those_promised():
    import brixel_edge

    assert brixel_edge.__version__ == version("brixel-edge")
    assert set(dir(brixel_edge)) >= {"FeatureMap", "Prototypes", "open_model", "stream", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'open_modell'"):
        brixel_edge.open_modell  # noqa: B018 - the access is the test


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    heavy = "{'numpy', 'cv2', 'onnxruntime', 'torch', 'openvino'}"
    code = f"import brixel_edge, sys; print(sorted(set(sys.modules) & {heavy}))"
    assert run_python(code, cwd=tmp_path) == "[]"


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_running_stream_never_loads_the_training_side(graph, tmp_path, photograph_paths, backend):
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    code = (
        "import sys, brixel_edge\n"
        "maps = list(brixel_edge.stream(sys.argv[1], source=sys.argv[2], backend=sys.argv[3]))\n"
        "assert maps[0].values.shape == (8, 12, 4)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'timm', 'onnx', 'skimage', 'av'}))"
    )
    assert run_python(code, graph, photograph_paths[0], backend, cwd=tmp_path) == "[]"


def test_the_library_leaves_signals_alone(graph, tmp_path, photograph_paths):
    code = (
        "import signal, sys, brixel_edge\n"
        "before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]\n"
        "list(brixel_edge.stream(sys.argv[1], source=sys.argv[2]))\n"
        "assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before"
    )
    run_python(code, graph, photograph_paths[0], cwd=tmp_path)
