"""Run the paper's experiments: `python -m experiments.run NAME|all --budget small|gpu --data FOLDER`.

Every variant and seed is a row of results/BUDGET.jsonl. Rows that are there are not computed again; a run that was
killed begins its last row anew. Weights that several rows share (such as those of the base model) are trained once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.budgets import BUDGETS, Budget
from experiments.catalog import Experiment, Variant, chosen
from experiments.judging import BATCH, Judge, draw
from experiments.report import write_report
from experiments.results import Rows
from experiments.training import Data, Trained, new_model, train
from flowar.precision import default_device
from flowar.threads import limit_threads
from flowar.weights import open_safetensors, safetensors_metadata, save_tensors

TIMED_STEPS = 4  # that an estimate takes of a variant


@dataclass
class Runner:
    """Runs variants under one budget.

    Attributes:
        output: for trained weights and the judge.
    """

    budget: Budget
    data: Data
    rows: Rows
    output: Path

    def pending(self, experiments: Sequence[Experiment]) -> Iterator[tuple[Variant, int]]:
        """Variants and seeds without a row, those that differ in the name alone but once."""
        seen = []
        for variant in (each for experiment in experiments for each in experiment.variants):
            recipe = variant.recipe(self.budget)
            if recipe not in seen:
                seen.append(recipe)
                missing = (seed for seed in self.budget.seeds if self.rows.find(variant, self.budget, seed) is None)
                yield from ((variant, seed) for seed in missing)

    def run(self, variant: Variant, seed: int, judge: Judge) -> dict[str, float]:
        """Train where there are no weights, judge, and write the row; returns what was measured."""
        trained = self.trained(variant, seed)
        started = time.perf_counter()
        samples = self.budget.samples
        measured = judge(trained.model, self.data.tokenizer(variant.tokenizer), samples, seed * samples)
        row = {
            "variant": variant.name,
            "seed": seed,
            **measured,
            "loss": trained.loss,
            "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
            "training_seconds": round(trained.seconds, 1),
            "judging_seconds": round(time.perf_counter() - started, 1),
            "device": self.data.device.type,
            "judge": judge.extractor.weights,
            "recipe": variant.recipe(self.budget),
        }
        self.rows.add(row)
        return measured

    def trained(self, variant: Variant, seed: int) -> Trained:
        """The variant's weights: those that another row left, or trained now."""
        path = self.weights_file(variant, seed)
        if not path.exists():
            trained = train(variant, self.budget, self.data, seed)
            about = {"loss": repr(trained.loss), "seconds": repr(trained.seconds)}
            save_tensors(path, trained.model.state_dict(), about)
            return trained
        model, about = new_model(variant, self.budget, self.data, seed), safetensors_metadata(path)
        model.load_state_dict(open_safetensors(path))
        return Trained(model.eval().requires_grad_(False), float(about["loss"]), float(about["seconds"]))

    def weights_file(self, variant: Variant, seed: int) -> Path:
        recipe = json.dumps(variant.training_recipe(self.budget), sort_keys=True)
        return self.output / "weights" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:16]}-{seed}.safetensors"

    def estimate(self, pending: Sequence[tuple[Variant, int]]) -> float:
        """Seconds that these will take, from a few steps and one batch of samples of every variant."""
        total, trainings, measured = 0.0, set[Path](), dict[str, tuple[float, float]]()
        for variant, seed in pending:
            key = json.dumps(variant.recipe(self.budget))
            if key not in measured:
                measured[key] = self.measure(variant)
            step, batch = measured[key]
            total += batch * -(-self.budget.samples // BATCH)
            path = self.weights_file(variant, seed)
            if path not in trainings and not path.exists():
                trainings.add(path)
                total += step * self.budget.steps
        return total

    def measure(self, variant: Variant) -> tuple[float, float]:
        """Seconds of a training step, and of drawing `BATCH` images."""
        first = train(variant, self.budget, self.data, 0, steps=1)
        trained = train(variant, self.budget, self.data, 0, steps=1 + TIMED_STEPS)
        started = time.perf_counter()
        seeds = [*range(BATCH)]
        draw(trained.model, self.data.tokenizer(variant.tokenizer), self.data.source.labels[:1].repeat(BATCH), seeds)
        return max(0.0, trained.seconds - first.seconds) / TIMED_STEPS, time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run the paper's experiments on Fashion-MNIST.")
    parser.add_argument("experiment", help="name, or all")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--data", type=Path, default=Path("data/fashion-mnist"), help="folder of the four idx files")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments"), help="for weights and the judge")
    parser.add_argument("--classifier", type=Path, help="the judge's file; trained into the output folder if left out")
    parser.add_argument("--report", type=Path, default=Path(__file__).parent, help="folder of README.md and results")
    parser.add_argument("--estimate", action="store_true", help="say how long it will take, and stop")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    limit_threads()
    experiments, budget, device = chosen(options.experiment), BUDGETS[options.budget], default_device(options.device)
    rows = Rows(options.report / "results" / f"{options.budget}.jsonl")
    runner = Runner(budget, Data(options.data, budget.images, device), rows, options.output)
    pending = [*runner.pending(experiments)]
    print(f"{len(pending)} rows to run, about {runner.estimate(pending) / 60:.0f} minutes", flush=True)
    if options.estimate:
        return
    if pending:
        judge = Judge.open(options.classifier or options.output / "judge.safetensors", options.data, device)
        for number, (variant, seed) in enumerate(pending, 1):
            measured = runner.run(variant, seed, judge)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
            print(f"{number} of {len(pending)}: {variant.name}, seed {seed}: {shown}", flush=True)
    write_report(options.report, options.budget, budget, rows)


if __name__ == "__main__":
    main()
