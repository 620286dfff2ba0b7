"""`python -m nano NAME --data ROOT --work FOLDER`: prepares, trains, goes on where it was stopped."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch

from nano.preparation import prepare
from nano.release import link_photographs, write_backbone
from nano.training import Run, Settings, train


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="nano", help="of the checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="a folder with photos/ and MANIFEST.csv")
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept; about 4 GB")
    parser.add_argument("--init", type=Path, help="another checkpoint, to start from its average")
    parser.add_argument("--minutes", type=float, default=1e9, help="of processor time, for this call")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = parser.parse_args()
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    prepared = prepare(options.data, options.work, settings.seed)
    run = Run(settings, prepared, options.work / "checkpoints" / f"{options.name}.pt", options.init)
    count = sum(parameter.numel() for parameter in run.vit.parameters())
    print(f"{options.name}: {count / 1e6:.2f} M parameters, from step {run.step}", flush=True)
    train(run, minutes=options.minutes)
    if run.step == settings.steps:
        write_backbone(run.average, options.work / f"{options.name}.safetensors")
        link_photographs(options.data, options.work)


if __name__ == "__main__":
    main()
