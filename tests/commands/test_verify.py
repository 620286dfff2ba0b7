"""brixel-verify: the gate on this device, what it refuses, and the picture that it leaves."""

import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from brixel_edge.commands.verify import main
from brixel_edge.model.bundle import open_bundle, write_receipt
from brixel_edge.runtimes.pictures.difference import Comparison, difference_map, error_colours


@pytest.fixture
def model(mini_fp16_bundle, tmp_path):
    return shutil.copytree(mini_fp16_bundle, tmp_path / "m.brixel")


def spoil(model, factor: float) -> None:
    """Change the first convolution of the fp16 graph, with a receipt that knows of it."""
    graph = onnx.load(str(model / "graph.fp16.onnx"))
    weight = next(entry for entry in graph.graph.initializer if "patch_embed.proj.weight" in entry.name)
    values = numpy_helper.to_array(weight) * np.float16(factor)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(graph, str(model / "graph.fp16.onnx"))
    write_receipt(model, open_bundle(model).receipt)


def test_every_engine_that_runs_here_passes_and_the_map_is_written(model, capsys):
    assert main([str(model), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["reference"] == "PyTorch at the export, on 2 photographs, kept in float16"
    engines = {entry["engine"]: entry for entry in record["engines"]}
    assert {"graph.fp32.onnx, ort", "graph.fp16.onnx, ort"} <= set(engines)
    assert all(entry["passed"] for entry in engines.values())
    assert engines["graph.fp32.onnx, ort"]["parity"]["cosine_mean"] > 0.99999
    picture = cv2.imread(str(model / "verify.png"))
    assert picture.shape[0] > 256 * len(engines)


def test_a_directory_that_cannot_be_written_to_keeps_no_figures_back(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (model / "verify.png").mkdir()  # as a read-only folder does, it takes no file of that name
    assert main([str(model), "--engine", "onnx"]) == 0
    captured = capsys.readouterr()
    assert "graph.fp32.onnx, ort" in captured.out and "difference map: m.brixel.verify.png" in captured.out
    assert (tmp_path / "m.brixel.verify.png").is_file()
    assert "cannot be written; the difference map is m.brixel.verify.png" in captured.err
    (tmp_path / "m.brixel.verify.png").unlink()
    (tmp_path / "m.brixel.verify.png").mkdir()
    assert main([str(model), "--engine", "onnx"]) == 0
    assert "difference map: none" in capsys.readouterr().out
    assert main([str(model), "--engine", "onnx", "--map", str(model / "verify.png")]) == 2


def test_a_changed_engine_is_exit_5_and_shows_in_the_map(model, capsys, tmp_path):
    spoil(model, 1.5)
    assert main([str(model), "--engine", "onnx-fp16", "--map", str(tmp_path / "d.png")]) == 5
    error = capsys.readouterr().err
    assert "misses the fp16 gate: cosine mean 0." in error
    assert "FAILED" in error
    assert (tmp_path / "d.png").is_file()


def test_images_of_the_user_are_compared_with_the_proven_fp32_graph(model, photograph_paths, capsys, tmp_path):
    assert main([str(model), "--images", str(photograph_paths[3]), "--map", str(tmp_path / "m.png"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["images"] == [photograph_paths[3].name]
    assert record["reference"].startswith("graph.fp32.onnx, ort on this device, on 1 images")
    exact = next(entry for entry in record["engines"] if entry["engine"] == "graph.fp32.onnx, ort")
    assert exact["parity"]["max_abs"] == 0
    spoil(model, 1.5)
    assert main([str(model), "--images", str(photograph_paths[3]), "--map", str(tmp_path / "m.png")]) == 5


def swaps_channels(model) -> None:
    """The fp16 graph takes red for blue, with a receipt that knows of it."""
    graph = onnx.load(str(model / "graph.fp16.onnx"))
    weight = next(entry for entry in graph.graph.initializer if "patch_embed.proj.weight" in entry.name)
    values = numpy_helper.to_array(weight)[:, ::-1]
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), weight.name))
    onnx.save(graph, str(model / "graph.fp16.onnx"))
    write_receipt(model, open_bundle(model).receipt)


@pytest.mark.parametrize("kind", ["grey", "constant"])
def test_pictures_that_could_show_no_fault_are_joined_by_the_proofs(model, photograph_paths, capsys, tmp_path, kind):
    picture = cv2.imread(str(photograph_paths[3]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "x.png"), picture if kind == "grey" else np.full_like(picture, 90))
    arguments = [str(model), "--images", str(tmp_path / "x.png"), "--map", str(tmp_path / "m.png"), "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == ["x.png", "a", "b"]
    assert f"could show a fault (x.png: {'grey' if kind == 'grey' else 'nearly constant'}); the proof's" in captured.err
    swaps_channels(model)
    assert main(arguments) == 5


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--engine", "onnx-int8"], 2, "has no onnx-int8 that runs here; it has onnx, onnx-fp16"),
        (["--engine", "trt-fp16"], 2, "or export with --engine trt-fp16"),
        (["--threads", "0"], 2, "--threads 0 is not at least 1"),
        (["--images", "absent.jpg"], 2, "absent.jpg"),
        (["--map", "absent/dir/m.png"], 2, "cannot be written to absent/dir/m.png; name another place with --map"),
    ],
)
def test_refusals_are_one_line(model, monkeypatch, tmp_path, capsys, flags, code, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(model), *flags]) == code
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert message in error[0]


def test_a_changed_file_is_refused_before_anything_runs(model, capsys):
    with (model / "proof.npz").open("ab") as stream:
        stream.write(b"x")
    assert main([str(model)]) == 2
    assert "differs from the file that was exported" in capsys.readouterr().err


def test_a_directory_of_an_earlier_release_has_no_proof(model, capsys):
    (model / "proof.npz").unlink()
    write_receipt(model, open_bundle(model).receipt)
    assert main([str(model)]) == 2
    assert "has no proof.npz" in capsys.readouterr().err


def test_error_colours_are_dark_where_maps_agree_and_white_where_there_is_no_number():
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(1, 8, 4, 6))
    candidate = reference.copy()
    candidate[0, :, 1, 2] = -candidate[0, :, 1, 2]
    candidate[0, :, 3, 5] = np.nan
    row = Comparison(label="x", image_bgr=np.zeros((8, 12, 3), np.uint8), reference=reference, candidate=candidate)
    painted = error_colours(row).astype(int)
    assert painted[3, 5].tolist() == [255, 255, 255]
    assert painted[1, 2, 2] > 100 > painted[1, 2, 0]  # red
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 3
    assert difference_map([row], "untrained").ndim == 3
