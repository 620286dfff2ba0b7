"""brixel-run --budget: the plan, and what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from command_runs import run_json
from lost_cameras import VanishingCamera

from brixel_edge.commands.run import main
from brixel_edge.runtimes.sources.frames import FrameMemory
from brixel_edge.runtimes.stream import budget
from brixel_edge.runtimes.stream import run as run_stream
from brixel_edge.runtimes.stream.feature_stream import OpenSources


@pytest.fixture
def graph(graph):
    return str(graph)


def test_the_memory_plan_is_said_kept_and_reported(graph, folder, capsys):
    _, report, errors = run_json(
        capsys, graph, "--source", folder, "--headless", "--backend", "ort", "--budget", "64GiB"
    )
    assert "brixel-run: planned peak memory: " in errors
    plan = report["memory_plan"]
    assert set(plan) == {"libraries", "engine", "weights", "activations", "features", "frames"}
    assert plan["weights"] == Path(graph).stat().st_size


def test_more_than_the_budget_ends_the_run(graph, folder, capsys, monkeypatch):
    monkeypatch.setattr(run_stream, "peak_rss_bytes", lambda: 3 << 30)
    assert main([graph, "--source", folder, "--headless", "--budget", "2GiB"]) == 6
    assert "the process took 3072 MiB, over its budget of 2048 MiB" in capsys.readouterr().err


def test_plans_against_measured_peaks():
    """Within 10 % of what five exported models took at most over their libraries, for loading and four calls [MiB]."""
    import dataclasses

    from brixel_edge.model.spec import ImageSpec

    measured = [  # width, side [px], graph [MiB], ort, openvino
        (128, 256, 6.6, 40, 93), (192, 256, 23.6, 66, 140), (384, 256, 88.9, 154, 298),
        (384, 512, 89.3, 332, 360), (768, 256, 349, 468, 921),
    ]  # fmt: skip
    nothing = FrameMemory(frame_bytes=0)
    for dim, side, graph_mib, *peaks in measured:
        image = ImageSpec(height=side, width=side, mean=(0.5,) * 3, std=(0.5,) * 3)
        spec = dataclasses.replace(tiny_model.spec(), dim=dim, image=image, grid=(side // 4, side // 4))
        for backend, peak in zip(("ort", "openvino"), peaks, strict=True):
            plan = budget.plan_memory(
                spec,
                round(graph_mib * 2**20),
                backend,
                now_bytes=0,
                queue_bytes=0,
                frames=[nothing],
                has_pictures=False,
            )
            items = {name: size for name, size in plan.items.items() if name not in ("features", "frames", "libraries")}
            assert sum(items.values()) / 2**20 == pytest.approx(peak, rel=0.1), (dim, side, backend)


@pytest.mark.parametrize(
    ("dim", "grid", "graph_mib", "backend", "libraries_mib", "peak_mib"),
    [(384, 16, 82.3, "ort", 94, 242), (384, 16, 82.3, "openvino", 99, 367), (384, 64, 88.9, "ort", 94, 284),
     (384, 64, 88.9, "openvino", 99, 406)],
)  # fmt: skip
def test_plans_of_whole_runs_against_measured_peaks(dim, grid, graph_mib, backend, libraries_mib, peak_mib):
    """ViT-S without and with the paper's adapter on a film of 720p, two processors; the frames come after loading."""
    import dataclasses

    from brixel_edge.model.spec import ImageSpec

    pixels = 1280 * 720
    film = FrameMemory(frame_bytes=3 * pixels, own_bytes=3 * pixels + 8 * pixels * 3 // 2 + 9 * 2**20)
    image = ImageSpec(height=256, width=256, mean=(0.5,) * 3, std=(0.5,) * 3)
    plan = budget.plan_memory(
        dataclasses.replace(tiny_model.spec(), dim=dim, image=image, grid=(grid, grid)), round(graph_mib * 2**20),
        backend, now_bytes=libraries_mib << 20, queue_bytes=8 << 20, frames=[film], has_pictures=False,
    )  # fmt: skip
    assert plan.total_bytes / 2**20 == pytest.approx(peak_mib, rel=0.1)


def test_a_refused_plan_names_what_would_fit():
    from brixel_edge.errors import MemoryBudgetError

    large = budget.MemoryPlan(items={"weights": 500 << 20})
    small = budget.MemoryPlan(items={"weights": 200 << 20})
    with pytest.raises(MemoryBudgetError, match=r"needs about 500 MiB \(weights 500\), over the budget of 300 MiB; "
                       "--backend ort takes about 200 MiB"):  # fmt: skip
        budget.check_plan(large, 300 << 20, "m on openvino", small)
    with pytest.raises(MemoryBudgetError, match="use a smaller backbone, or export a smaller --size"):
        budget.check_plan(large, 100 << 20, "m on openvino", small)
    budget.check_plan(small, 200 << 20, "m on ort")


def test_peak_memory_is_the_peak_and_not_the_present(graph, folder, capsys, monkeypatch):
    monkeypatch.setattr(run_stream, "peak_rss_bytes", lambda: 777 << 20)
    monkeypatch.setattr(run_stream, "rss_bytes", lambda: 111 << 20)
    _, report, _ = run_json(capsys, graph, "--source", folder, "--headless")
    assert report["peak_memory_bytes"] == 777 << 20


class CameraWithProcess(VanishingCamera):
    """Its process takes 100 MiB at its first frame, 200 MiB in the end."""

    def memory(self):
        return FrameMemory(frame_bytes=32 * 48 * 3, process_bytes=(100 + 100 * (self.reads > 0)) << 20)


def test_a_camera_s_process_is_planned_measured_and_held_against_the_budget(graph, capsys, monkeypatch):
    monkeypatch.setattr(
        run_stream, "open_sources", lambda *_: OpenSources(sources=[CameraWithProcess()], names=["camera 0"])
    )
    monkeypatch.setattr(run_stream, "peak_rss_bytes", lambda: 9111 << 20)  # more than any plan here
    arguments = [graph, "--camera", "0", "--headless", "--backend", "ort", "--frames", "1"]
    code, report, _ = run_json(capsys, *arguments, "--budget", "10GiB")
    assert (code, report["peak_memory_bytes"]) == (0, 9311 << 20)
    assert report["memory_plan"]["camera process"] == 100 << 20
    assert main([*arguments, "--budget", "9GiB"]) == 6
    assert "the process took 9311 MiB, over its budget of 9216 MiB" in capsys.readouterr().err


def test_what_loading_takes_is_free_before_frames_come():
    from brixel_edge.runtimes.sources.frames import FrameMemory

    def items(frame_bytes):
        frames = [FrameMemory(frame_bytes=frame_bytes, count=1)]
        return budget.plan_memory(
            tiny_model.spec(), 100 << 20, "openvino", now_bytes=0, queue_bytes=0, frames=frames, has_pictures=False
        ).items

    small, large = items(10 << 20), items(50 << 20)
    assert small["loading"] + small["activations"] + small["frames"] == 40 << 20  # 2.3 - 1.9 of the file
    assert "loading" not in large


@pytest.mark.parametrize(("backend", "libraries_mib", "peak_mib"), [("ort", 87, 236), ("openvino", 92, 283)])
def test_the_plan_of_the_built_in_model_against_measured_peaks(backend, libraries_mib, peak_mib):
    """Its patch embedding takes more than its blocks: 96 channels at half of 512 x 704."""
    from brixel_edge.model.bundle import resolve_model
    from brixel_edge.runtimes.sources.frames import FrameMemory

    built_in, frames = resolve_model(None), FrameMemory(frame_bytes=3 * 480 * 640, may_queue=False)
    plan = budget.plan_memory(
        built_in.spec, built_in.graph.stat().st_size, backend, now_bytes=libraries_mib << 20, queue_bytes=0,
        frames=[frames], has_pictures=False,
    )  # fmt: skip
    assert plan.total_bytes / 2**20 == pytest.approx(peak_mib, rel=0.1)
