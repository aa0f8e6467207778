"""`flowar encode`: the latents of images, computed once and written to a store to train on. One process does it."""

from __future__ import annotations

from pathlib import Path

from flowar.commands import say
from flowar.errors import FlowARError
from flowar.training.data_config import DataConfig as Options


def run(options: Options) -> None:
    """Encode what is missing, and print what the store holds."""
    from flowar.system.ranks import join_ranks
    from flowar.training.load_data import load_data

    if not (options.folder and options.latents):
        raise FlowARError(f"encode: expected folder and latents, got {options.folder} and {options.latents}")
    folder = Path(options.latents)
    with join_ranks(options.device) as ranks, ranks.main_first():
        if not ranks.main:
            return
        store, _ = load_data(options, folder)
    shape = "x".join(map(str, (store.channels, *store.grid)))
    say(
        f"{len(store)} images (variants: {store.variants}), latents {shape}, {store.nbytes / 2**20:.1f} MiB, "
        f"{len(store.skipped)} images skipped, in {folder}"
    )
