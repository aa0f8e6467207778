"""All kinds of cases, and the case of a number."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from campaign.archives import wrong_idx, wrong_npz, wrong_tar
from campaign.case import Case, Ground
from campaign.commands import COMMANDS
from campaign.documents import wrong_document
from campaign.environment import full_disk, wrong_output, wrong_surroundings
from campaign.folders import wrong_folder
from campaign.material import copy
from campaign.options import not_together, odd_value, wrong_line, wrong_value
from campaign.pictures import wrong_mask, wrong_picture
from campaign.tensors import wrong_pickle, wrong_safetensors
from campaign.verdict import Expected
from campaign.whole_files import wrong_file

KINDS: dict[str, Callable[[Ground], Case]] = {
    "option out of range": wrong_value,
    "odd option": odd_value,
    "command line": wrong_line,
    "options together": not_together,
    "file replaced": wrong_file,
    "JSON and YAML": wrong_document,
    "safetensors": wrong_safetensors,
    "pickle": wrong_pickle,
    "npz": wrong_npz,
    "tar": wrong_tar,
    "idx": wrong_idx,
    "picture": wrong_picture,
    "mask": wrong_mask,
    "folder": wrong_folder,
    "surroundings": wrong_surroundings,
    "full disk": full_disk,
    "output": wrong_output,
}
# Kinds with more to try come more often.
TURNS = [
    *KINDS,
    *("option out of range", "option out of range", "JSON and YAML", "JSON and YAML", "file replaced", "safetensors"),
]


def kind_of(number: int) -> str:
    return TURNS[number % len(TURNS)]


def case_of(seed: int, number: int, material: Path, folder: Path) -> Case:
    """Case `number` of `seed`, whose files are then in `folder`."""
    ground = Ground(random.Random(f"{seed}/{number}"), material, folder)
    return KINDS[kind_of(number)](ground)


def control(command: int, material: Path, folder: Path) -> Case:
    """A command as it works."""
    chosen = [each for each in COMMANDS if each.works][command]
    copy(material, chosen, folder)
    return Case(chosen, chosen.arguments, "nothing", Expected.ACCEPTED)
