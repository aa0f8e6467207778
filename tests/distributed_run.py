"""A program for torchrun: the training run whose configuration is in the JSON file that is its argument."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from training_runs import MODEL, run_config

from flowar.commands.train import run
from flowar.training.config import OptimConfig, ValidationConfig

torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO)
options = json.loads(Path(sys.argv[1]).read_text())
model = replace(MODEL, **options.pop("model", {}))
data, output = (Path(options.pop(name)) for name in ("data", "output"))
optim = OptimConfig(**options.pop("optim"))
validation = ValidationConfig(**options.pop("validation", {}))
run(replace(run_config(data, output, model=model, **options), optim=optim, validation=validation))
