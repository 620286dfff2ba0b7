"""The loop: draws windows, learns, averages the weights, saves; goes on where it was stopped, to the same weights."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brixel_edge.machine.files import replacing
from nano.network import build
from nano.objectives import DenseContrast, Described, FinerTeacher, Objective, Pixels
from nano.preparation import Prepared, start_sample
from nano.start import start_closed
from nano.windows import Windows

RECIPES = ("described", "pixels", "finer", "contrast")


@dataclass(frozen=True)
class Settings:
    """A training.

    Attributes:
        recipe: one of `RECIPES`.
        start: closed, or random.
        tokens: of a batch, at most.
        rate: of learning, at its highest.
        warmup: steps to it.
        steps: in all; the rate falls to nothing over the last `cool` of them.
        cool: see `steps`.
        average: momentum of the average of the weights, which is what is shipped.
        codes: weight of the codes, of recipe described.
        odds: share of windows that are masked, of recipe described.
        seed: of everything.
    """

    recipe: str = "described"
    start: str = "closed"
    tokens: int = 1408
    rate: float = 5e-4
    warmup: int = 50
    steps: int = 2800
    cool: int = 2700
    average: float = 0.995
    codes: float = 0.1
    odds: float = 0.1
    seed: int = 0


def make_objective(settings: Settings, vit: Any, prepared: Prepared) -> Objective:
    """The recipe by its name."""
    if settings.recipe == "described":
        return Described(vit, prepared.teacher, prepared.cells, codes=settings.codes, odds=settings.odds)
    return {"pixels": Pixels, "finer": FinerTeacher, "contrast": DenseContrast}[settings.recipe](vit)


class Run:
    """One training: network, objective, optimiser, average.

    Args:
        settings: what is trained.
        prepared: of the photographs.
        path: of the checkpoint; gone on from where it is there.
        init: another checkpoint whose average the network starts from.
    """

    def __init__(self, settings: Settings, prepared: Prepared, path: Path, init: Path | None = None) -> None:
        self.settings, self.path = settings, path
        self.rng = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        self.vit = build(seed=settings.seed)
        going_on = path.exists()
        if init is not None:
            self.vit.load_state_dict(torch.load(init)["average"])
        elif settings.start == "closed" and not going_on:
            explained = start_closed(self.vit, start_sample(prepared), prepared.filters)
            print("closed start explains " + ", ".join(f"{share:.3f}" for share in explained), flush=True)
        self.objective = make_objective(settings, self.vit, prepared)
        self.average = copy.deepcopy(self.vit).requires_grad_(False)
        self.windows = Windows(
            prepared.pyramid,
            settings.tokens,
            finer=self.objective.finer,
            flips=self.objective.flips,
            augmented=self.objective.augmented,
        )
        self.trained = [*self.vit.parameters(), *(p for p in self.objective.parameters() if p.requires_grad)]
        groups = [
            {"params": [p for p in self.trained if p.ndim >= 2], "weight_decay": 0.02},
            {"params": [p for p in self.trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
        self.step, self.seconds, self.pictures = 0, 0.0, 0
        if going_on:
            self._load()

    def one_step(self) -> dict[str, float]:
        """Draw, predict, update."""
        started = time.process_time()
        batch = self.windows.draw(self.rng)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.objective(self.vit, batch, self.rng)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise RuntimeError(f"loss is not finite at step {self.step}: {losses}")
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.objective.after_step(self.vit, self.step)
        self._follow()
        self.step += 1
        self.pictures += len(batch.images)
        self.seconds += time.process_time() - started
        return {name: value.item() for name, value in losses.items()}

    def _rate(self) -> float:
        cooling = min((self.settings.steps - self.step) / max(self.settings.cool, 1), 1.0)
        return self.settings.rate * min((self.step + 1) / self.settings.warmup, 1.0) * max(cooling, 0.01)

    @torch.no_grad()
    def _follow(self) -> None:
        momentum = min(self.settings.average, 1 - 1 / (self.step / 10 + 2))
        for old, new in zip(self.average.parameters(), self.vit.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "vit": self.vit.state_dict(),
            "average": self.average.state_dict(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "pictures": self.pictures,
            "rng": json.dumps(self.rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "settings": asdict(self.settings),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        state = torch.load(self.path)
        self.vit.load_state_dict(state["vit"])
        self.average.load_state_dict(state["average"])
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.pictures = state["step"], state["seconds"], state["pictures"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        torch.set_rng_state(state["torch_rng"])


def train(run: Run, *, minutes: float = 1e9, save_every_s: float = 120, report_every: int = 50) -> None:
    """Go on until the steps are done or `minutes` of processor time are used by this call."""
    until = run.seconds + 60 * minutes
    saved = time.monotonic()
    sums: dict[str, float] = {}
    while run.step < run.settings.steps and run.seconds < until:
        for name, value in run.one_step().items():
            sums[name] = sums.get(name, 0.0) + value / report_every
        if run.step % report_every == 0:
            terms = " ".join(f"{name} {value:.4f}" for name, value in sums.items())
            print(f"step {run.step} cpu {run.seconds / 60:.1f} min pictures {run.pictures} {terms}", flush=True)
            sums = {}
        if time.monotonic() - saved > save_every_s:
            run.save()
            saved = time.monotonic()
    run.save()
