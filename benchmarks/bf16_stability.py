"""Does training in bfloat16 stay finite? A run of FlowAR-S on random crops of real images; every skipped step counts.

    python benchmarks/bf16_stability.py --data data/fashion-mnist

Exit code 1 if a step was skipped, or the loss did not fall.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from record import save_results, settings_of

from flowar.config import FlowARConfig
from flowar.system.precision import default_device
from flowar.system.structured import read_rows
from flowar.training.config import OptimConfig, TrainConfig
from flowar.training.data_config import DataConfig
from flowar.training.trainer import train


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of images a class, idx files, or WebDataset tars")
    parser.add_argument("--tokenizer", default="pixel:2", help="as of flowar train")
    parser.add_argument("--image-size", type=int, default=32, help="of images that are not idx files")
    parser.add_argument("--model", default="S", help="preset")
    parser.add_argument("--num-classes", type=int, default=10, help="of the data")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--output", type=Path, help="file of results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    device = default_device()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            DataConfig(options.data, options.tokenizer, image_size=options.image_size, crops=4),
            folder,
            FlowARConfig.preset(options.model, num_classes=options.num_classes),
            optim=OptimConfig(batch_size=options.batch_size, steps=options.steps, lr=options.lr, warmup_steps=100),
            precision="bf16",
            log_every=max(1, min(20, options.steps // 2)),
            sample_every=0,
            save_every=options.steps,
        )
        train(config)
        rows = read_rows(Path(folder) / "metrics.jsonl", dict)
    skipped, losses = sum(row["skipped_steps"] for row in rows), [row["loss"] for row in rows]
    print(f"{options.steps} steps in bfloat16: {skipped} skipped, loss {losses[0]:.3f} to {losses[-1]:.3f}")
    path = save_results("bf16_stability", device, options.output, {"settings": settings_of(options), "rows": rows})
    print(f"results in {path}")
    return int(skipped > 0 or not losses[-1] < losses[0])


if __name__ == "__main__":
    sys.exit(main())
