"""Which weights a run leaves: those of its best evaluation, also after a crash or a full disk, or none and an error."""

import dataclasses
import json
import logging

import pytest
from tiny_training import STEPS, cut_short, last_state, same_bits, tiny_settings, weights

from brixel_edge.errors import TrainingError
from brixel_edge.training import best as training_best
from brixel_edge.training import results as training_results
from brixel_edge.training.loop import train
from brixel_edge.training.validation import Validator


@pytest.fixture(scope="module")
def best_run(folders, tmp_path_factory, in_tiny_world):
    """A run that grows worse after its warm-up, and the weights at its best step by another one that ends there."""
    root = tmp_path_factory.mktemp("best")
    settings = dataclasses.replace(
        tiny_settings(folders, root / "run"), learning_rate=0.5, warmup_steps=4, eval_every=2
    )
    with in_tiny_world():
        record = train(settings)
        totals = {scores.step: scores.student["total"] for scores in record.evaluations}
        best_step = min(totals, key=totals.get)
        assert record.best_step == best_step < STEPS
        ended = dataclasses.replace(settings, steps=best_step, out=root / "ended")
        train(ended)
    return settings, best_step, last_state(ended)["refiner"]


def test_the_file_holds_the_weights_of_the_best_evaluation(best_run):
    settings, _, expected = best_run
    assert same_bits(weights(settings), expected)
    assert not same_bits(weights(settings), last_state(settings)["refiner"])


def test_weights_that_could_be_written_at_the_end_only_are_the_best_ones(best_run, tmp_path, monkeypatch):
    settings, _, expected = best_run
    ordinary = training_best.write_adapter
    late = lambda *given: given[-1] and ordinary(*given)  # noqa: E731 -- the last argument: no other chance
    monkeypatch.setattr(training_best, "write_adapter", late)
    again = dataclasses.replace(settings, out=tmp_path / "again")
    train(again)
    assert same_bits(weights(again), expected)


def test_a_resumed_run_knows_the_best_evaluation_before_the_crash(best_run, tmp_path, monkeypatch):
    settings, best_step, expected = best_run
    resumed = dataclasses.replace(settings, out=tmp_path / "resumed")
    cut_short(resumed, STEPS - 1, monkeypatch)
    record = train(dataclasses.replace(resumed, is_resumed=True))
    assert record.best_step == best_step
    assert same_bits(weights(resumed), expected)


def test_weights_that_could_not_be_written_are_written_when_the_same_command_resumes(settings, monkeypatch):
    def full(*_):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(training_results, "save_adapter", full)
        with pytest.raises(TrainingError, match="with --resume"):
            train(settings)
    assert not (settings.out / "adapter.safetensors").exists()
    record = train(dataclasses.replace(settings, is_resumed=True))
    assert record.best_step == STEPS and same_bits(weights(settings), last_state(settings)["refiner"])


def spoilt(monkeypatch, steps):
    """Let the evaluations of these numbers, from 0, give no number."""
    ordinary, count = Validator.evaluate, iter(range(100))

    def evaluate(self, distiller):
        result = ordinary(self, distiller)
        if next(count) in steps:
            return dataclasses.replace(result, student=dict(result.student, total=float("nan")))
        return result

    monkeypatch.setattr(Validator, "evaluate", evaluate)


def test_a_run_without_one_good_evaluation_leaves_no_weights_and_is_an_error(settings, monkeypatch):
    spoilt(monkeypatch, {0, 1})
    with pytest.raises(TrainingError, match="none of 2 evaluations gave a number, so no weights were kept") as caught:
        train(settings)
    assert caught.value.exit_code == 4
    assert not (settings.out / "adapter.safetensors").exists()
    assert json.loads((settings.out / "train.json").read_text())["best_step"] == -1


def test_an_evaluation_that_gives_no_number_is_named_and_passed_over(settings, monkeypatch, caplog):
    spoilt(monkeypatch, {1})
    with caplog.at_level(logging.WARNING):
        record = train(settings)
    assert record.best_step == 4 and "the evaluation at step 8 is not a number" in caplog.text
