"""A program for torchrun: the training run whose configuration is in the JSON file that is its argument."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch
from training_runs import read_config

from flowar.commands.train import run

torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO)
run(read_config(Path(sys.argv[1])))
