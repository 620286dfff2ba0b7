"""brixel-run as a user types it: results, refusals, exit codes, signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_model

from brixel_edge.commands.run import main
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.runtimes import model as model_module
from brixel_edge.runtimes import opening
from brixel_edge.runtimes.stream import budget
from brixel_edge.runtimes.stream import run as run_stream
from brixel_edge.runtimes.stream.feature_stream import OpenSources

PROGRAM = [sys.executable, "-m", "brixel_edge.commands.run"]


@pytest.fixture
def graph(graph):
    return str(graph)


@pytest.fixture
def folder(tmp_path, photographs):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        cv2.imwrite(str(pictures / f"{number}.jpg"), photographs[1])
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return str(pictures)


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def run_json(capsys, *arguments):
    code = main([*map(str, arguments), "--json", "--quiet"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_a_folder_is_run_whole_and_reported(graph, folder, capsys):
    code, report, errors = run_json(capsys, graph, "--source", folder, "--headless", "--backend", "ort")
    assert code == 0
    assert (report["frames_in"], report["processed"], report["dropped"], report["skipped"]) == (5, 5, 0, 1)
    assert (report["model"], report["backend"], report["notice"]) == ("tiny.onnx", "ort", None)
    assert set(report["stages"]) == {"capture", "wait", "preprocess", "infer", "total"}
    assert all(0 <= stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"] for stage in report["stages"].values())
    assert report["fps"] == pytest.approx(5 / report["elapsed_s"])
    assert report["peak_memory_bytes"] > 20 << 20
    assert "broken.jpg: not an image, or cut short" in errors


def test_what_was_exported_runs_and_is_named_everywhere(folder, tmp_path, capsys):
    graphs = ("graph.fp32.onnx", "graph.int8.ort.onnx")
    root = tiny_bundle.save(tmp_path / "m.brixel", graphs, "onnx-int8")
    code, report, errors = run_json(capsys, root, "--source", folder, "--headless")
    assert code == 0
    engine = [report[name] for name in ("model", "engine", "precision", "backend", "passed_over")]
    assert engine == ["m.brixel", "graph.int8.ort.onnx", "int8", "ort", []]
    proof = "proven here at this first load (cosine mean 1.00000 on 3 photographs)"
    assert report["proof"] == proof
    assert f"-> m.brixel: graph.int8.ort.onnx (int8) on ort, {proof}" in errors
    assert main([str(root), "--source", folder, "--headless", "--quiet"]) == 0
    assert "engine       graph.int8.ort.onnx (int8) on ort, proven here at an earlier load (" in capsys.readouterr().out
    _, report, _ = run_json(capsys, root, "--source", folder, "--headless", "--precision", "fp32", "--backend", "ort")
    assert (report["engine"], report["precision"]) == ("graph.fp32.onnx", "fp32")


def test_what_is_passed_over_is_in_one_line_and_in_the_table(folder, tmp_path, capsys):
    root = tiny_bundle.save(tmp_path / "m.brixel", engine="trt-fp16")
    record = json.loads((root / "model.json").read_text())
    record["requested"] |= {"precision": "fp16", "made": record["requested"]["made"] | {"precision": "fp16"}}
    (root / "model.json").write_text(json.dumps(record))
    assert main([str(root), "--source", folder, "--headless", "--quiet", "--backend", "auto"]) == 0
    captured = capsys.readouterr()
    reason = "trt-fp16, which it was exported for, is not taken: the directory has none"
    [line] = [line for line in captured.err.splitlines() if "not taken" in line]
    assert line.startswith(f"brixel-run: warning: m.brixel: {reason}; graph.fp32.onnx, ")
    assert f"             {reason}" in captured.out


def test_people_get_a_table(graph, folder, capsys):
    assert main([graph, "--source", folder, "--headless", "--quiet"]) == 0
    table = capsys.readouterr().out
    for row in ("model", "source", "frames in    5", "skipped      1", "fps", "peak memory", "infer", "total"):
        assert row in table


def test_pictures_are_saved_beside_the_report(graph, folder, tmp_path, capsys):
    code, report, _ = run_json(capsys, graph, "--source", folder, "--save", tmp_path / "panels")
    assert code == 0
    saved = sorted((tmp_path / "panels").iterdir())
    assert [path.name for path in saved] == [f"00000{number}_{number}.png" for number in range(5)]
    assert cv2.imread(str(saved[0])).shape[1] == 2 * 480
    assert report["saved"] == f"{tmp_path / 'panels'}/ (5 PNGs)"
    assert "output" in report["stages"]


def test_limits_end_a_run(graph, folder, capsys, tmp_path):
    _, report, _ = run_json(capsys, graph, "--source", folder, "--headless", "--frames", 2)
    assert report["processed"] == 2
    start = time.monotonic()
    _, report, _ = run_json(capsys, graph, "--source", "demo:", "--headless", "--duration", 0.6)
    assert time.monotonic() - start < 10
    assert 2 <= report["processed"] <= 21
    assert report["source"].startswith("demo:")


def test_the_built_in_model_says_that_it_is_untrained_everywhere(folder, tmp_path, capsys):
    path = tiny_model.save(tmp_path / "untrained.onnx", tiny_model.spec(trained=False))
    _, report, errors = run_json(capsys, path, "--source", folder, "--headless")
    assert report["notice"] == UNTRAINED_NOTICE
    assert UNTRAINED_NOTICE in errors
    main([str(path), "--source", folder, "--headless"])
    assert UNTRAINED_NOTICE in capsys.readouterr().out
    trained = tiny_model.save(tmp_path / "trained.onnx")
    sizes = []
    for name in (path, trained):
        out = tmp_path / f"{name.stem}_panels"
        main([str(name), "--source", folder, "--save", str(out), "--frames", "1"])
        sizes.append(cv2.imread(str(next(out.iterdir()))).shape[0])
    assert sizes[0] == sizes[1] + 24  # the line in the picture


def test_without_a_display_it_says_so_and_runs(graph, folder, capsys):
    assert main([graph, "--source", folder, "--quiet"]) == 0
    assert (
        "no display here, so nothing is shown; --preview serves a page, --save out.mp4 keeps the pictures"
        in capsys.readouterr().err
    )


def test_a_line_each_second_goes_to_stderr(graph, capsys):
    assert main([graph, "--duration", "2.3", "--headless"]) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "dropped" in line]
    assert len(lines) == 2
    assert "dropped 0" not in captured.out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{graph}", "--camera", "99"], 7, "camera 99 = /dev/video99 is not there"),
        (["{graph}", "--source", "rtsp://127.0.0.1:9/none"], 7, "rtsp://127.0.0.1:9/none does not open"),
        (["{graph}", "--source", "nothing.mp4"], 2, "source 'nothing.mp4' is not there"),
        (["{graph}", "--source", "{graph}"], 2, "is not a video that can be read"),
        (["nothing.brixel", "--source", "{folder}"], 2, "no model at nothing.brixel"),
        (["{folder}", "--source", "{folder}"], 2, "is not a model directory"),
        (["{folder}/broken.jpg", "--source", "{folder}"], 2, "is not an ONNX model"),
        (["{graph}", "--source", "{folder}", "--save", "none/out.mp4"], 2, "folder none is not there"),
        (["{graph}", "--source", "{folder}", "--budget", "much"], 2, "'much' is not a size in bytes"),
        (["{graph}", "--source", "{folder}", "--budget", "50MiB"], 6, "over the budget of 50 MiB"),
        (["{graph}", "--source", "{folder}", "--backend", "trt", "--budget", "2GiB"], 2, "leave --budget out"),
    ],
)
def test_refusals_are_one_line_with_their_code(graph, folder, capsys, monkeypatch, arguments, code, message):
    monkeypatch.setattr(opening, "choose_backend", lambda name: "ort" if name == "auto" else name)
    monkeypatch.setattr(run_stream, "load_backend", lambda name: None)
    assert main([part.format(graph=graph, folder=folder) for part in arguments] + ["--headless"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = [line for line in captured.err.splitlines() if line.startswith("brixel-run: error: ")]
    assert message in line
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [["--threads", "0"], ["--duration", "-1"], ["--duration", "nan"], ["--frames", "x"], ["--fit", "zoom"],
     ["--camera", "0", "--source", "demo:"], ["--backend", "cuda"], ["a", "b"]],
    ids=" ".join,
)  # fmt: skip
def test_usage_errors_are_two(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "brixel-run: error:" in capsys.readouterr().err


def test_a_missing_backend_is_three(graph, folder, capsys, monkeypatch):
    from brixel_edge.runtimes import engines as base

    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
    assert main([graph, "--source", folder, "--headless", "--backend", "openvino"]) == 3
    assert "pip install 'brixel-edge[openvino]'" in capsys.readouterr().err


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
    from brixel_edge.runtimes.sources.frames import FrameMemory

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


class VanishingCamera:
    """Three frames, then it is gone."""

    is_live, fps, skipped, description = True, 30.0, 0, "camera 0"

    def __init__(self):
        self.reads = 0

    def read(self):
        from brixel_edge.errors import SourceError
        from brixel_edge.runtimes.sources.frames import Frame

        self.reads += 1
        time.sleep(0.1)
        if self.reads > 3:
            raise SourceError("camera 0 was lost and did not come back within 30 s")
        now = time.monotonic()
        image = np.full((32, 48, 3), 50 * self.reads, np.uint8)
        return Frame(image=image, index=self.reads - 1, t_capture_s=now, t_media_s=self.reads / 10, capture_s=0.0)

    def interrupt(self):
        pass

    def close(self):
        pass


def test_a_lost_camera_leaves_its_figures_and_what_was_saved(graph, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        run_stream, "open_sources", lambda *_: OpenSources(sources=[VanishingCamera()], names=["camera 0"])
    )
    out = tmp_path / "out.avi"
    assert main([graph, "--camera", "0", "--save", str(out), "--quiet"]) == 7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "processed    3 in" in captured.err
    assert captured.err.splitlines()[-1].startswith("brixel-run: error: camera 0 was lost")
    assert out.exists()


def start(*arguments, cwd):
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )


def wait_for_line(process, part):
    for line in process.stderr:
        if part in line:
            return
    raise AssertionError(f"ended without {part!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_table_and_a_whole_video(graph, tmp_path, number):
    out = tmp_path / "out.mp4"
    process = start(graph, "--source", "demo:", "--save", out, cwd=tmp_path)
    wait_for_line(process, " fps ")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "peak memory" in output
    capture = cv2.VideoCapture(str(out))
    assert capture.read()[0]
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["out.mp4"]
    assert not list(tmp_path.glob(".out*"))


STUCK_ENGINE = """
import sys, threading
from brixel_edge.runtimes import model
def hang(self, fitted, **_):
    print("inside", file=sys.stderr, flush=True)
    threading.Event().wait()
model.Model.features = hang
model.Model.warm_up = lambda self: None
from brixel_edge.commands.run import main
sys.argv[0] = "brixel-run"
sys.exit(main())
"""


def test_a_signal_ends_a_run_whose_engine_hangs(graph, folder, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK_ENGINE, graph, "--source", folder, "--headless"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    wait_for_line(process, "inside")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "processed    0" in output


def test_other_threads_may_run_it(graph, folder, capsys):
    """Signals belong to the main thread; elsewhere a run goes without them."""
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(main([graph, "--source", folder, "--headless", "--frames", "1", "--quiet"]))
    )
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom brixel_edge.commands.run import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'openvino', 'torch', 'av', 'skimage', 'tkinter'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "examples:" in run.stdout
    assert "exit codes:" in run.stdout


class BusyCamera(VanishingCamera):
    """40 frames in a second and a half, one of them after a gap, then its end."""

    def read(self):
        if self.reads == 40:
            return None
        self.reads += 1
        from brixel_edge.runtimes.sources.frames import Frame

        time.sleep(0.01)
        image = np.full((32, 48, 3), self.reads, np.uint8)
        return Frame(image=image, index=self.reads - 1, t_capture_s=time.monotonic(), t_media_s=self.reads / 10,
                     capture_s=0.0, is_after_gap=self.reads == 5)  # fmt: skip


@pytest.mark.parametrize("policy", [[], ["--policy", "latest"], ["--policy", "every"], ["--policy", "max-age=500"]])
def test_frames_and_gaps_add_up_in_the_report(graph, capsys, monkeypatch, policy):
    monkeypatch.setattr(run_stream, "open_sources", lambda *_: OpenSources(sources=[BusyCamera()], names=["camera 0"]))
    features = model_module.Model.features

    def slow(*given, **named):
        time.sleep(0.05)
        return features(*given, **named)

    monkeypatch.setattr(model_module.Model, "features", slow)
    code, report, _ = run_json(capsys, graph, "--headless", "--backend", "ort", *policy)
    assert code == 0
    assert (report["frames_in"], report["gaps"]) == (40, 1)
    assert report["processed"] + report["dropped"] + report["waiting"] == 40
    assert (report["dropped"] > 10) == (policy != ["--policy", "every"])
    health = report["health"]
    assert health["delivered"] + health["dropped"] + health["waiting"] == health["frames_in"] == 40
    assert (health["state"], health["sources"][0]["source"]) == ("ended", "camera 0")
    assert (report["within_max_age"] is not None) and 0 <= report["within_max_age"] <= 1
    assert report["max_age_ms"] == {"": 1000, "max-age=500": 500}.get("".join(policy[1:]))


def test_a_policy_that_cannot_be_is_refused(graph, capsys):
    assert main([graph, "--policy", "all", "--headless"]) == 2
    assert "policy 'all' is not latest, every or max-age=MS" in capsys.readouterr().err


def test_several_sources_share_one_run(graph, capsys):
    clock, pattern = "test:clock?width=96&height=64", "test:pattern?width=64&height=64"
    code, report, _ = run_json(
        capsys, graph, "--source", clock, "--source", pattern, "--headless", "--duration", 1, "--backend", "ort"
    )
    assert code == 0
    assert [source["source"] for source in report["health"]["sources"]] == [clock, pattern]
    assert all(source["delivered"] > 3 for source in report["health"]["sources"])
    assert report["processed"] + report["dropped"] + report["waiting"] == report["frames_in"]


@pytest.mark.parametrize("out", ["out.mp4", "panels"])
def test_pictures_of_several_sources_are_not_mixed_in_one_recording(graph, tmp_path, capsys, out):
    sources = ["--source", "test:clock", "--source", "test:pattern"]
    assert main([graph, *sources, "--save", str(tmp_path / out), "--headless", "--frames", "3"]) == 2
    error = capsys.readouterr().err
    assert (
        f"--save {tmp_path / out} shows one source, not 2; start one brixel-run for each, with a --save of its" in error
    )
    assert not (tmp_path / out).exists()


def test_peak_memory_is_the_peak_and_not_the_present(graph, folder, capsys, monkeypatch):
    monkeypatch.setattr(run_stream, "peak_rss_bytes", lambda: 777 << 20)
    monkeypatch.setattr(run_stream, "rss_bytes", lambda: 111 << 20)
    _, report, _ = run_json(capsys, graph, "--source", folder, "--headless")
    assert report["peak_memory_bytes"] == 777 << 20


def test_a_run_waits_for_less_than_a_second_after_a_stop(graph, folder, monkeypatch):
    """The grace that an engine is given, plus one poll, is all that stands between a signal and the table."""
    given = []
    stop = run_stream.EngineThread.stop
    monkeypatch.setattr(
        run_stream.EngineThread, "stop", lambda self, timeout_s: given.append(timeout_s) or stop(self, timeout_s)
    )
    assert main([graph, "--source", folder, "--headless", "--quiet"]) == 0
    assert 0 < sum(given) < 0.8
