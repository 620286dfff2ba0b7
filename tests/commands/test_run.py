"""brixel-run as a user types it: results, refusals, exit codes, signals."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import cv2
import pytest
import tiny_bundle
import tiny_model
from command_runs import run_json

from brixel_edge.commands.run import main
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.runtimes import opening
from brixel_edge.runtimes.stream import run as run_stream


@pytest.fixture
def graph(graph):
    return str(graph)


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
