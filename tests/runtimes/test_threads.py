"""One opened engine, four threads: each gets the features of its own picture, on every backend."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_model
from acted_plan import IMAGE

from brixel_edge.errors import SpecError
from brixel_edge.runtimes import engines
from brixel_edge.runtimes.backends.trt import open_trt
from brixel_edge.runtimes.model import open_model

THREADS, CALLS = 4, 60


@pytest.fixture(autouse=True)
def eager_threads() -> Iterator[None]:
    """Python gives way to the next thread at nearly every step, so that what can go wrong does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work) -> list[str]:
    """Call work(number) in each thread; what went wrong there."""
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait()
        try:
            wrong.extend(f"thread {number}: wrong" for _ in range(CALLS) if not work(number))
        except Exception as error:
            wrong.append(f"thread {number}: {error}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return wrong


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_model_gives_each_thread_its_own_map(backend, tmp_path):
    if not engines.has_backend(backend):
        pytest.skip(f"{backend} is not installed")
    graph = tiny_model.save(tmp_path / "tiny.onnx", tiny_model.spec(256, 256))
    pictures = np.random.default_rng(0).integers(0, 256, (THREADS, 256, 256, 3), dtype=np.uint8)
    means = [tiny_model.cell_means(picture.astype(float)) for picture in pictures]
    with open_model(graph, backend=backend) as model:
        wrong = in_threads(
            lambda number: np.allclose(model(pictures[number]).values[..., :3], means[number], atol=1e-2)
        )
    assert wrong == []


def test_a_tensorrt_engine_gives_each_thread_its_own_map(acted, plan_in, monkeypatch):
    acted("10.3.0")
    pictures = [np.full_like(IMAGE, 50 * number) for number in range(THREADS)]
    runtime = open_trt(plan_in())
    replay = runtime._stream.run
    # A device takes its time between the upload and the result; the acted one takes none.
    monkeypatch.setattr(runtime._stream, "run", lambda work: (time.sleep(1e-3), replay(work)))
    wrong = in_threads(
        lambda number: np.allclose(runtime.infer(pictures[number])["features"], 50 * number + 1, atol=0.1)
    )
    runtime.close()
    assert wrong == []


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_closing_while_others_infer_is_an_error_of_theirs_and_no_crash(backend, tmp_path):
    if not engines.has_backend(backend):
        pytest.skip(f"{backend} is not installed")
    graph = tiny_model.save(tmp_path / "tiny.onnx", tiny_model.spec(256, 256))
    picture = np.zeros((256, 256, 3), np.uint8)
    model = open_model(graph, backend=backend)

    def work(number: int) -> bool:
        if number == 0:
            model.close()
            return True
        try:
            return bool((model(picture).values[..., 3] == tiny_model.CONSTANT).all())
        except SpecError as error:
            return "closed" in str(error)

    assert in_threads(work) == []
