"""Fixtures shared by all tests: real photographs, the shared data where it is there, and small models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from house import package_folders

ROOT = Path(__file__).resolve().parents[1]
STAND_INS = Path(__file__).parent / "stand_ins"
SHARED = Path(__file__).resolve().parents[2] / "shared"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is noted in the user's cache folder."""
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def photograph_paths() -> list[Path]:
    """Photographs that scikit-image carries."""
    import skimage

    return [Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS]


@pytest.fixture(scope="session")
def photographs(photograph_paths: list[Path]) -> list[np.ndarray]:
    """The same as uint8 (H, W, 3) BGR arrays."""
    import cv2

    return [cv2.imread(str(path)) for path in photograph_paths]


@pytest.fixture
def graph(tmp_path) -> Path:
    """A graph whose features can be told by hand; see `tiny_model`."""
    import tiny_model

    return tiny_model.save(tmp_path / "tiny.onnx")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "brixel-test", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The package's log lines, which a command that ran before may have kept from the root."""
    import logging

    monkeypatch.setattr(logging.getLogger("brixel_edge"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def in_tiny_world():
    """A context: the backbone `tiny` is in the table; one thread, for bits depend on how many there are."""
    import torch
    from tiny_training import TINY

    from brixel_edge.model.backbones import BACKBONES, BackboneSpec

    @contextmanager
    def world() -> Iterator[None]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(BACKBONES, "tiny", BackboneSpec(**TINY))
                yield
        finally:
            torch.set_num_threads(threads)

    return world


@pytest.fixture
def tiny(in_tiny_world) -> Iterator[None]:
    """The backbone `tiny`, two blocks of width 32, while a test runs."""
    with in_tiny_world():
        yield


@pytest.fixture(scope="session")
def mini_student() -> object:
    """The default model; its sampling offsets, which start as constants, depend on the image here."""
    import torch

    from brixel_edge.network.backbone import load_backbone
    from brixel_edge.network.deformable import DeformableAttention
    from brixel_edge.network.student import load_student

    student = load_student(load_backbone("vit_mini_dinov3"), "random")
    generator = torch.Generator().manual_seed(1)
    for module in student.modules():
        if isinstance(module, DeformableAttention):
            for linear in (module.sampling_offsets, module.attention_weights):
                linear.weight.data.normal_(std=0.05, generator=generator)
    return student


@pytest.fixture(scope="session")
def mini_graph(tmp_path_factory, mini_student) -> Callable[[str], Path]:
    """graph.fp32.onnx of that model at 64 x 96 px for a sampler, traced once a run."""
    from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
    from brixel_edge.export.graph.to_onnx import onnx_from_model

    spec = spec_from_student(mini_student, 64, 96, "brixel", name="vit_mini_dinov3")
    folder = tmp_path_factory.mktemp("mini")

    def graph(sampler: str = "gridsample") -> Path:
        path = folder / f"{sampler}.fp32.onnx"
        if not path.exists():
            model = FusedModel(mini_student, spec, sampler).eval()
            onnx_from_model(model, spec, path, has_samples=sampler == "materialised")
        return path

    return graph


@pytest.fixture(scope="session")
def mini_images(photograph_paths) -> list[np.ndarray]:
    """Photographs at that size, (1, 64, 96, 3) uint8 BGR."""
    from brixel_edge.proof.photographs import load_images

    return load_images(photograph_paths, 64, 96)


@pytest.fixture(scope="session")
def export_mini_fp16(tmp_path_factory, mini_student, mini_graph, mini_images):
    """Exports that model at 64 x 96 with fp32 and fp16 graphs, from graphs that are traced already; takes a name."""
    from brixel_edge.commands.export_job import Job
    from brixel_edge.commands.export_steps import export_directory
    from brixel_edge.export.facts import Photographs
    from brixel_edge.export.graph.fuse import spec_from_student
    from brixel_edge.model.engine_choice import engine_choice

    spec = spec_from_student(mini_student, 64, 96, "brixel", name="vit_mini_dinov3")

    def export(name: str) -> Path:
        out = tmp_path_factory.mktemp(name) / "m.brixel"
        job = Job(
            out=out,
            student=mini_student,
            spec=spec,
            engines=(engine_choice("onnx-fp16"),),
            photographs=Photographs(names=["a", "b"], pixels=mini_images[:2]),
            ranging=Photographs(names=["c"], pixels=mini_images[2:3]),
            trace=lambda sampler, path: shutil.copy(mini_graph(sampler), path),
        )
        export_directory(job)
        return out

    return export


@pytest.fixture(scope="session")
def mini_fp16_bundle(export_mini_fp16) -> Path:
    """Such a directory; copy it before you change it."""
    return export_mini_fp16("mini_fp16")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from what lies in the checkout."""
    pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    # A copy of the tracked sources, so that a build leaves nothing in the checkout.
    for folder in package_folders().values():
        (source / folder).mkdir(parents=True)
        for path in (ROOT / folder).iterdir():
            if path.is_file():
                (source / folder / path.name).write_bytes(path.read_bytes())
    pictures = package_folders()["brixel_edge.runtimes.sources"] / "photographs"
    for data in (pictures, package_folders()["brixel_edge"] / "weights"):
        shutil.copytree(ROOT / data, source / data)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Live in a world: acted(release, **faults) puts its TensorRT and its CUDA in place of the real ones."""
    import sys

    import trt_stand_in

    def enter(release: str = "10.3.0", **faults: object) -> trt_stand_in.World:
        world = trt_stand_in.World(release, **faults)
        monkeypatch.setitem(sys.modules, "tensorrt", world.tensorrt)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", world.cudart)
        return world

    return enter


@pytest.fixture
def acted_process(monkeypatch, tmp_path):
    """A world as of `acted` for the building process, which finds it first on its path; gives what it recorded."""
    import json
    import os

    record = tmp_path / "calls.jsonl"

    def enter(release="10.3.0", **faults):
        folders = os.pathsep.join(
            filter(None, [str(STAND_INS / "process"), str(STAND_INS), os.environ.get("PYTHONPATH", "")])
        )
        monkeypatch.setenv("PYTHONPATH", folders)
        world = {"release": release, "record_path": str(record), **faults}
        monkeypatch.setenv("BRIXEL_ACTED_WORLD", json.dumps(world))
        return lambda: [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]

    return enter


@pytest.fixture
def graphs(tmp_path):
    """Small graphs as files: graphs("vit", "fp16")."""
    import small_graphs

    def make(name: str, *arguments: object, **changes: object) -> Path:
        path = tmp_path / f"{'.'.join((name, *map(str, arguments)))}.onnx"
        return small_graphs.save(getattr(small_graphs, name)(*arguments, **changes), path)

    return make
