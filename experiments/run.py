"""Run the paper's experiments: `python -m experiments.run NAME|all --budget small|gpu --data FOLDER`.

Every variant and seed is a row of results/BUDGET.jsonl. Rows that are there are not computed again; a run that was
killed begins its last row anew. Weights that several rows share (such as those of the base model) are trained once, and
so are the tokenizers that an experiment compares, before all else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch

from experiments.budgets import BUDGETS, Budget
from experiments.catalog import Experiment, Variant, chosen
from experiments.judging import BATCH, Judge, draw
from experiments.report import write_report
from experiments.results import Row, Rows
from experiments.tokenizers import TRAINED, is_trained
from experiments.training import Data, Trained, new_model, train
from flowar.storage.weights import open_safetensors, safetensors_metadata, save_tensors
from flowar.system.precision import default_device
from flowar.system.threads import usable_cpus
from flowar.training.encoding import end_with_parent

TIMED_STEPS = 4  # that an estimate takes of a variant
TIMED_IMAGES = 512  # that it encodes

Run = tuple[Variant, int]  # and a seed
Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


@dataclass
class Runner:
    """Runs variants under the budget of the data, and leaves their weights in its output folder."""

    data: Data

    @property
    def budget(self) -> Budget:
        return self.data.budget

    def run(self, variant: Variant, seed: int, judge: Judge) -> Row:
        """Train where there are no weights, judge, and say what was measured."""
        trained = self.trained(variant, seed)
        started = time.perf_counter()
        samples = self.budget.samples
        measured = judge(trained.model, self.data.tokenizer(variant.tokenizer), samples, seed * samples)
        return {
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

    def trained(self, variant: Variant, seed: int) -> Trained:
        """The variant's weights: those that another row left, or trained now."""
        path = self.weights_file(variant, seed)
        if not path.exists():
            teacher = self.trained(variant.teacher, seed).model if variant.student else None
            trained = train(variant, self.budget, self.data, seed, teacher=teacher)
            about = {"loss": repr(trained.loss), "seconds": repr(trained.seconds)}
            save_tensors(path, trained.model.state_dict(), about)
            return trained
        model, about = new_model(variant, self.budget, self.data, seed), safetensors_metadata(path)
        model.load_state_dict(open_safetensors(path))
        return Trained(model.eval().requires_grad_(False), float(about["loss"]), float(about["seconds"]))

    def weights_file(self, variant: Variant, seed: int) -> Path:
        recipe = json.dumps(variant.training_recipe(self.budget), sort_keys=True)
        return self.data.output / "weights" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:16]}-{seed}.safetensors"

    def tasks(self, pending: Sequence[Run]) -> list[list[Run]]:
        """Those that share weights together, so that no two processes train the same."""
        by_weights: dict[Path, list[Run]] = {}
        for variant, seed in pending:
            by_weights.setdefault(self.weights_file(variant, seed), []).append((variant, seed))
        return [*by_weights.values()]

    def missing_tokenizers(self, pending: Sequence[Run]) -> list[str]:
        """Those that have to be trained before these runs."""
        names = dict.fromkeys(variant.tokenizer for variant, _ in pending if variant.tokenizer in TRAINED)
        return [name for name in names if not is_trained(name, self.budget, self.data.output)]

    def estimate(self, pending: Sequence[Run]) -> float:
        """Seconds that these take one after the other, from a few steps and one batch of samples of every variant.

        Training of tokenizers that are missing is counted. Encoding of images is not.
        """
        steps = self.budget.tokenizer_steps
        total = sum(self.data.rehearse_tokenizer(name) * steps for name in self.missing_tokenizers(pending))
        measured = dict[str, tuple[float, float]]()
        for task in self.tasks(pending):
            for number, (variant, seed) in enumerate(task):
                key = json.dumps(variant.recipe(self.budget))
                if key not in measured:
                    measured[key] = self.measure(variant)
                step, batch = measured[key]
                total += batch * -(-self.budget.samples // BATCH)
                if number == 0 and not self.weights_file(variant, seed).exists():
                    total += step * variant.spent(self.budget).steps
        return total

    def measure(self, variant: Variant) -> tuple[float, float]:
        """Seconds of a training step, and of drawing `BATCH` images."""
        teacher = new_model(variant.teacher, self.budget, self.data, 0).eval() if variant.student else None
        train(variant, self.budget, self.data, 0, 1, teacher)  # encodes images, and warms up
        trained = train(variant, self.budget, self.data, 0, TIMED_STEPS, teacher)
        started = time.perf_counter()
        seeds = [*range(BATCH)]
        draw(trained.model, self.data.tokenizer(variant.tokenizer), self.data.source.labels[:1].repeat(BATCH), seeds)
        return trained.seconds / TIMED_STEPS, time.perf_counter() - started


def pending_runs(experiments: Sequence[Experiment], budget: Budget, rows: Rows) -> Iterator[Run]:
    """Variants and seeds without a row, those that differ in the name alone but once."""
    seen = []
    for variant in (each for experiment in experiments for each in experiment.variants):
        recipe = variant.recipe(budget)
        if recipe not in seen:
            seen.append(recipe)
            yield from ((variant, seed) for seed in budget.seeds if rows.find(variant, budget, seed) is None)


_runner: Runner  # of a process
_judge: Judge


def start_process(runner: Runner, classifier: Path | None, threads: int) -> None:
    """Make this process ready for `run_task`, and end it with its parent."""
    global _runner, _judge
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _runner, _judge = runner, Judge.open(classifier, runner.data.folder, runner.data.device)


def run_task(task: Sequence[Run]) -> list[Row]:
    return [_runner.run(variant, seed, _judge) for variant, seed in task]


def train_tokenizer(name: str) -> str:
    _runner.data.tokenizer(name)
    return name


def run_tasks(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], jobs: int, setup: tuple[Runner, Path | None, int]
) -> Iterator[Outcome]:
    """What `work` makes of every task, as each is done by one of `jobs` processes."""
    if not tasks:
        return
    if jobs == 1:
        start_process(*setup)
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start_process, setup) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def new_parser(description: str) -> argparse.ArgumentParser:
    """Options of every command about experiments: which, of what, and where."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("experiment", help="name, or all")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--data", type=Path, default=Path("data/fashion-mnist"), help="folder of the four idx files")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments"), help="for weights and tokenizers")
    parser.add_argument("--classifier", type=Path, help="the judge's file; the one that ships if left out")
    parser.add_argument("--device", default="auto")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser("Run the paper's experiments on Fashion-MNIST.")
    parser.add_argument("--report", type=Path, default=Path(__file__).parent, help="folder of README.md and results")
    parser.add_argument("--jobs", type=int, help="processes; if left out, one a CPU, or one for a GPU")
    parser.add_argument("--estimate", action="store_true", help="say how long it will take, and stop")
    options = parser.parse_args(arguments)
    experiments, budget, device = chosen(options.experiment), BUDGETS[options.budget], default_device(options.device)
    # Networks this small gain nothing by a second thread, so CPUs share the work by variants.
    jobs = options.jobs or (usable_cpus() if device.type == "cpu" else 1)
    threads = max(1, usable_cpus() // jobs)
    torch.set_num_threads(threads)
    rows = Rows(options.report / "results" / f"{options.budget}.jsonl")
    images = TIMED_IMAGES if options.estimate else budget.images
    runner = Runner(Data(options.data, budget, device, options.output, images))
    pending = [*pending_runs(experiments, budget, rows)]
    if options.estimate:
        minutes = runner.estimate(pending) / 60 / jobs
        print(f"{len(pending)} rows to run, about {minutes:.0f} minutes in {jobs} processes", flush=True)
        return
    if pending:
        setup = (runner, options.classifier, threads)
        for name in run_tasks(train_tokenizer, runner.missing_tokenizers(pending), jobs, setup):
            print(f"tokenizer {name} trained", flush=True)
        started = time.perf_counter()
        for done, row in enumerate(chain.from_iterable(run_tasks(run_task, runner.tasks(pending), jobs, setup)), 1):
            rows.add(row)
            left = (time.perf_counter() - started) / done * (len(pending) - done) / 60
            result = "{variant}, seed {seed}: {frechet_distance:.4g}, {agreement:.3f}".format(**row)
            print(f"{done} of {len(pending)}, {left:.0f} minutes left: {result}", flush=True)
    write_report(options.report, options.budget, budget, rows)


if __name__ == "__main__":
    # As a module of its name: what processes get by pickle must not be of `__main__`.
    from experiments.run import main as run_experiments

    run_experiments()
