"""brixel-train as a user meets it: flags, exit codes, one-line errors, output."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from brixel_edge.commands.train import build_parser, main, settings_from_arguments
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.training.losses import LossSettings
from brixel_edge.training.settings import TrainSettings
from brixel_edge.training.views import ViewSettings

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photograph_paths):
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(photograph_paths):
        with Image.open(path) as image:
            image.convert("RGB").crop((40, 40, 200, 200)).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture
def arguments(photos, tmp_path):
    places = ["--data", str(photos), "--val", str(photos), "--out", str(tmp_path / "run")]
    model = ["--backbone", "tiny", "--backbone-weights", "random", "--size", "32", "--device", "cpu"]
    return [*places, *model, "--batch", "2", "--steps", "2", "--eval-every", "2", "--teacher-precision", "fp32"]


def last_error(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_a_run_prints_what_it_wrote_and_how_good_it_is(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "adapter.safetensors" in output.out and "bilinear" in output.out and "cosine_centred" in output.out
    assert "untrained weights" in output.out and "Apache-2.0" in output.out
    assert "brixel-train: step 2 of 2: cosine " in output.err and "images/s" in output.err
    assert "\r" not in output.err and "|" not in output.err  # no bar where nobody looks at one
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


def test_json_is_the_record(arguments, tmp_path, capsys):
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "run" / "train.json").read_text())
    assert printed["step"] == 2 and printed["evaluations"] == written["evaluations"]


def test_processes_other_than_the_first_are_silent_on_stdout(arguments, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


def changed(arguments, **flags):
    result = list(arguments)
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in result:
            result[result.index(flag) + 1] = value
        else:
            result += [flag, value]
    return result


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ({"data": "nowhere"}, 2, "no such data"),
        ({"size": "48"}, 2, "use 32 or 64"),
        ({"size": "wide"}, 2, "HEIGHTxWIDTH"),
        ({"size": "64"}, 2, "too few for a batch of 2"),
        ({"batch": "5"}, 2, "too few for a batch of 5"),
        ({"backbone": "resnet"}, 2, "is not known; choose one of"),
        ({"backbone_weights": "nothing.pth"}, 2, "nothing.pth"),
        ({"tap_layers": "a,b"}, 2, "3,6,9,11"),
        ({"cache": "maps"}, 2, "--cache-budget"),
        ({"cache": "maps", "cache_budget": "1KiB"}, 2, "raise it"),
        ({"cache": "maps", "cache_budget": "1GiB", "crops": "random"}, 2, "leave --cache or --crops"),
        ({"learning_rate": "1e30", "warmup_steps": "0", "steps": "5"}, 4, "is not a number"),
    ],
)
def test_what_cannot_be_ends_with_one_line_and_its_exit_code(
    arguments, flags, code, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(changed(arguments, **flags)) == code
    assert message in last_error(capsys)


def test_an_empty_folder_is_bad_input(arguments, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(changed(arguments, data=str(tmp_path / "empty"))) == 2
    assert "has no photographs" in last_error(capsys)


def test_a_named_backbone_without_weights_asks_for_them(arguments, capsys):
    without = [word for word in arguments if word not in ("--backbone-weights", "random")]
    assert main(without) == 2
    assert "--backbone-weights FILE (or pretrained, or random)" in last_error(capsys)


def test_a_second_run_into_the_same_folder_must_be_meant(arguments, capsys):
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "add --resume" in last_error(capsys)
    assert main([*arguments, "--resume"]) == 0


def test_epochs_and_steps_exclude_each_other(arguments):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--epochs", "2"])
    assert caught.value.code == 2


def test_every_flag_arrives(tmp_path):
    text = (
        "--data a b --val c --out o --backbone vit_small_patch14_dinov2 --backbone-weights w.pth --tap-layers 1,2 "
        "--export-official x.pth --size 224,196x252 --flips --max-upscale 1.5 --l1-weight 2 --edge-weight 3 "
        "--spectral-weight 0 --edge-norm mse --spectral-mask high --batch 8 --epochs 5 --learning-rate 2e-3 "
        "--warmup-steps 7 --schedule cosine --drop-path 0.1 --seed 9 --eval-every 11 --val-limit 12 --save-every 13 "
        "--resume --device cpu --precision bf16 --teacher-precision fp32 --teacher-batch 2 --compile --workers 3 "
        "--prefetch 6 --cache maps --cache-budget 1GiB"
    )
    expected = TrainSettings(
        data=("a", "b"),
        val=("c",),
        out=Path("o"),
        backbone="vit_small_patch14_dinov2",
        backbone_weights="w.pth",
        tap_layers=(1, 2),
        export_official=Path("x.pth"),
        views=ViewSettings(sizes=((224, 224), (196, 252)), flips=True, max_upscale=1.5),
        losses=LossSettings(l1=2, edge=3, spectral=0, edge_norm="mse", spectral_mask="high"),
        batch=8,
        epochs=5,
        learning_rate=2e-3,
        warmup_steps=7,
        schedule="cosine",
        drop_path=0.1,
        seed=9,
        eval_every=11,
        val_limit=12,
        save_every=13,
        is_resumed=True,
        device="cpu",
        precision="bf16",
        teacher_precision="fp32",
        teacher_batch=2,
        is_compiled=True,
        workers=3,
        prefetch=6,
        cache=Path("maps"),
        cache_budget_bytes=2**30,
    )
    assert settings_from_arguments(build_parser().parse_args(text.split())) == expected


def test_flags_of_the_conv_adapter_arrive_and_are_for_it_only(arguments, capsys):
    given = build_parser().parse_args([*arguments, "--adapter", "conv", "--conv-width", "64", "--full-frame"])
    assert settings_from_arguments(given).conv == ConvSettings(width=64, full_frame=True)
    assert main([*arguments, "--full-frame"]) == 2
    assert "are for --adapter conv" in last_error(capsys)


def test_help_and_parsing_load_nothing_heavy():
    code = (
        "import sys; from brixel_edge.commands.train import build_parser; build_parser().format_help(); "
        "print([name for name in ('torch', 'timm', 'PIL', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"
