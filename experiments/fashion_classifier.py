"""Train the judge of the shipped model on Fashion-MNIST's training split, and print its accuracy on the test split.

python -m experiments.fashion_classifier --data FOLDER --output FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar.data.sources import open_idx
from flowar.data.transforms import to_unit_range
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.storage.weights import save_tensors
from flowar.system.progress import step_progress

BATCH = 128


def train(images: Tensor, labels: Tensor, epochs: int = 4, lr: float = 2e-3) -> FashionClassifier:
    """A classifier of uint8 images [N, 1, 28, 28], trained with a one-cycle schedule."""
    torch.manual_seed(0)
    model = FashionClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    with step_progress(steps, None, "training classifier") as advance:
        for _ in range(epochs):
            for indices in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
                loss = F.cross_entropy(model(to_unit_range(images[indices])), labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance()
    return model.eval()


@torch.no_grad()
def judge(model: FashionClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, 128] and predicted labels [N] of images [N, 1, 28, 28] in [-1, 1]."""
    features = torch.cat([model.features(part) for part in images.split(500)])
    return features, model.head(F.relu(features)).argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the judge of the shipped model.")
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's four idx files")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    options = parser.parse_args()
    source, test = open_idx(options.data, "train"), open_idx(options.data, "t10k")
    model = train(source.images, source.labels)
    save_tensors(options.output, model.state_dict())
    _, predicted = judge(model, to_unit_range(test.images))
    print(f"accuracy on the test split: {(predicted == test.labels).float().mean():.4f}")


if __name__ == "__main__":
    main()
