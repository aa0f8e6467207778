"""KL-16, the autoencoder of the published models, from its checkpoint to diffusers' AutoencoderKL.

The checkpoint (`kl16.ckpt`, from MAR, arXiv 2406.11838) follows the latent-diffusion code; the same network in
diffusers differs in names, in the order of the decoder's resolutions, and in attention projections that are linear
layers instead of 1x1 convolutions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowar.errors import CheckpointError
from flowar.storage.foreign import open_foreign
from flowar.storage.published import KL16_SCALE
from flowar.storage.weights import check_finite, check_shapes, shapes_of
from flowar.tokenizers.autoencoder import AutoencoderTokenizer, autoencoder_class

log = logging.getLogger(__name__)

RENAMES = (
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attn\.(\d+)\.", r".attentions.\1."),
    (r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)

# What single files may hold instead, by how the name of a tensor begins. A file does not tell the scale of its latents:
# it is another in every generation of Stable Diffusion.
FOLDER = "name its folder in diffusers' format, whose config.json tells the scale of the latents"
OTHERS = (
    (r"ar_transformer\.|decoder_embed\.", "a FlowAR model"),
    (r"quantize\.", "an autoencoder with a codebook, whose latents are discrete"),
    (r"(encoder\.down|decoder\.up)_blocks\.", f"an autoencoder of diffusers; {FOLDER}"),
    (r"(encoder|decoder)\.stages\.", f"a deep compression autoencoder; {FOLDER}"),
    (r"first_stage_model\.", f"a whole latent diffusion model; {FOLDER}"),
)
LATENT_DIFFUSION = f"the autoencoder of a latent diffusion model such as Stable Diffusion; {FOLDER}"


def load_kl16(source: str | Path | Mapping[str, Tensor]) -> AutoencoderTokenizer:
    """The KL-16 tokenizer from the published checkpoint, a file or a state dict.

    Raises:
        CheckpointError: for an unreadable file, for the tensors of something else, which is named if it is known, and
            for a missing, unexpected or misshapen tensor, or one that is not finite.
        MissingPackageError: without diffusers.
    """
    tensors, taken = open_foreign(source)
    where = "checkpoint" if isinstance(source, Mapping) else source
    if taken:
        log.info("%s: taking %s", where, taken)
    if other := other_kind(tensors):
        raise CheckpointError(f"{where}: expected the tensors of KL-16 (kl16.ckpt), got {other}")
    network = {name: value for name, value in tensors.items() if not name.startswith("loss.")}  # of its training
    levels = 1 + max((int(m[1]) for name in network if (m := re.match(r"encoder\.down\.(\d+)\.", name))), default=-1)
    converted = {diffusers_name(name, levels): value for name, value in network.items()}
    vae = autoencoder_class("AutoencoderKL")(**diffusers_config(network, levels))
    converted = {name: value.flatten(1) if is_projection(name) else value for name, value in converted.items()}
    check_shapes(shapes_of(converted), shapes_of(vae.state_dict()))
    check_finite(where, converted)
    vae.load_state_dict(converted)
    return AutoencoderTokenizer(vae)


def other_kind(tensors: Mapping[str, Tensor]) -> str | None:
    """What the tensors of a single file are, if they are known to be of something else than KL-16."""
    for pattern, kind in OTHERS:
        if any(re.match(pattern, name) for name in tensors):
            return kind
    levels = [name for name in tensors if name.startswith("encoder.down.")]
    return None if not levels or any(".attn." in name for name in levels) else LATENT_DIFFUSION


def diffusers_name(name: str, levels: int) -> str:
    """The name in diffusers of the checkpoint's tensor `name`, in a network of `levels` resolutions."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.", name)


def is_projection(name: str) -> bool:
    """Whether a tensor is the weight of an attention projection, a convolution there and a linear layer here."""
    return re.search(r"\.attentions\.\d+\.to_\w+(\.0)?\.weight$", name) is not None


def diffusers_config(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Any]:
    """The arguments of AutoencoderKL, widths read off the tensors."""
    needed = [f"encoder.down.{level}.block.0.conv2.weight" for level in range(levels)]
    needed += ["encoder.conv_in.weight", "decoder.conv_in.weight"]
    missing = [name for name in needed if name not in tensors or tensors[name].dim() != 4]
    if missing or not levels:
        raise CheckpointError(f"KL-16: expected the tensors of its checkpoint, {missing[0]} among them")
    return {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["encoder.conv_in.weight"].shape[1],
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "block_out_channels": [tensors[name].shape[0] for name in needed[:levels]],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * (levels - 1) + ["AttnDownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": KL16_SCALE,
    }
