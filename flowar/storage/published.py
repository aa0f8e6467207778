"""The authors' checkpoints: their tensor names, and the configuration read off their shapes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from flowar.config import PRESETS, FlowARConfig
from flowar.errors import CheckpointError
from flowar.storage.weights import Shape

KL16_SCALE = 0.2325  # raw latents times this have unit variance
# What a published model records of its tokenizer.
KL16_RECORD: dict[str, Any] = {
    "image_channels": 3,
    "channels": 16,
    "stride": 16,
    "mean": [0.0] * 16,
    "std": [round(1 / KL16_SCALE, 6)] * 16,
}

# Ours to theirs, in order of application; `published_names` does what needs the configuration.
RENAMES = (
    (r"^ar_transformer\.input_positions$", "encoder_pos_embed_learned"),
    (r"^ar_transformer\.middle_positions$", "decoder_pos_embed_learned"),
    (r"^ar_transformer\.output_positions$", "diffusion_pos_embed_learned"),
    (r"^ar_transformer\.class_embedding", "class_emb"),
    (r"^ar_transformer\.input_proj", "z_proj"),
    (r"^ar_transformer\.input_norm", "z_proj_ln"),
    (r"^ar_transformer\.middle_norm", "encoder_norm"),
    (r"^ar_transformer\.middle_proj", "decoder_embed"),
    (r"^ar_transformer\.output_norm", "decoder_norm"),
    (r"^(ar_transformer\.blocks\.\d+)\.modulation", r"\1.ada_lin.1"),
    (r"^flow_transformer\.blocks", "flownet.res_blocks"),
    (r"^flow_transformer\.condition_embed", "flownet.cond_embed"),
    (r"^flow_transformer\.output_proj", "flownet.final_layer.linear"),
    (r"^flow_transformer\.output_modulation", "flownet.final_layer.adaLN_modulation.1"),
    (r"^flow_transformer", "flownet"),
    (r"\.cross\.", ".crossattn."),
    (r"\.cross_norm\.", ".norm2_1."),
    (r"\.condition_norm\.", ".norm2_2."),
    (r"\.time_modulation\.", ".ada_lin_attn."),
)


def published_names(name: str, config: FlowARConfig) -> tuple[str, ...]:
    """The authors' name of our parameter `name`; two names where ours is theirs stacked along dimension 0."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    block = re.match(r"^ar_transformer\.blocks\.(\d+)", name)
    if block:
        index, half = int(block[1]), config.ar_depth // 2
        stage = "encoder_blocks" if index < half else "decoder_blocks"
        name = f"{stage}.{index % half}{name[block.end() :]}"
    mlp_modulation = "ada_lin_mlp" if config.flow_block == "attn_cross_mlp" else "ada_lin"
    name = name.replace(".position_modulation.", f".{mlp_modulation}.")
    if ".mlp.fc1." in name:
        return name.replace(".fc1.", ".fc1_g."), name.replace(".fc1.", ".fc1_x.")
    return (name,)


def published_shapes(model: nn.Module, config: FlowARConfig) -> dict[str, Shape]:
    """Every tensor that the authors' file of this model must hold."""
    shapes: dict[str, Shape] = {}
    for name, parameter in model.named_parameters():
        names = published_names(name, config)
        for published in names:
            shapes[published] = [parameter.shape[0] // len(names), *parameter.shape[1:]]
    return shapes


def published_buffers(config: FlowARConfig) -> dict[str, Shape]:
    """The tables that the authors' modules keep as buffers; they follow from the configuration."""
    assert config.flow_heads is not None
    ar_freqs, flow_freqs = config.ar_width // config.ar_heads // 4, config.flow_width // config.flow_heads // 4
    half = config.ar_depth // 2
    attentions = ["attn", "crossattn"] if config.flow_block == "attn_cross_mlp" else ["attn"]
    shapes: dict[str, Shape] = {"mask": [1, 1, config.tokens, config.tokens]}
    shapes |= {
        f"{stage}_blocks.{i}.attn.rope.freqs": [ar_freqs] for stage in ("encoder", "decoder") for i in range(half)
    }
    shapes |= {
        f"flownet.res_blocks.{i}.{attention}.rope.freqs": [flow_freqs]
        for i in range(config.flow_depth)
        for attention in attentions
    }
    return shapes


def infer_config(shapes: Mapping[str, Shape], given: Mapping[str, int | None] | None = None) -> FlowARConfig:
    """The configuration of a published checkpoint, sampling settings from the preset of the same size.

    Every number is read from several tensors and the most frequent answer wins, so that one damaged tensor is found by
    the comparison with the model's shapes, under its own name. Heads that no tensor tells may be `given`.

    Raises:
        CheckpointError: if what the configuration is read from is missing, or the grid is not a doubled square.
    """
    sizes: dict[str, Any] = {
        "ar_width": vote(shapes, r"(z_proj|decoder_embed)\.bias|(z_proj_ln|encoder_norm|decoder_norm)\.weight", 0),
        "ar_depth": depth(shapes, r"encoder_blocks\.(\d+)\.") + depth(shapes, r"decoder_blocks\.(\d+)\."),
        "flow_width": vote(shapes, r"flownet\.(cond_embed|input_proj|time_embed\.mlp\.[02])\.bias", 0),
        "flow_depth": depth(shapes, r"flownet\.res_blocks\.(\d+)\."),
    }
    crossing = sum(".crossattn." in name for name in shapes)
    sizes["flow_block"] = "attn_cross_mlp" if crossing > sizes["flow_depth"] else "attn_mlp"
    tokens = vote(shapes, r"\w+_pos_embed_learned", 1)
    sides = [side for side in (2**k for k in range(1, 16)) if (4 * side * side - 1) // 3 == tokens]
    if not sides:
        raise CheckpointError(f"checkpoint: expected positions for scales 1, 2, 4, ..., got {tokens}")
    channels = vote(shapes, r"(z_proj|flownet\.input_proj)\.weight", 1)
    preset = next((p for p in PRESETS.values() if sizes == {k: ({"flow_block": "attn_mlp"} | p)[k] for k in sizes}), {})
    return FlowARConfig(
        **(preset | sizes | heads(shapes, given or {}, preset, sizes)),
        latent_channels=channels,
        latent_size=sides[0],
        num_classes=vote(shapes, r"class_emb\.weight", 0) - 1,
        tokenizer=KL16_RECORD if channels == KL16_RECORD["channels"] else None,
    )


def heads(
    shapes: Mapping[str, Shape], given: Mapping[str, int | None], preset: Mapping[str, Any], sizes: Mapping[str, Any]
) -> dict[str, int]:
    """The attention heads: from the rotary tables (a quarter of a head's channels), else as `given`, else the preset's.

    Raises:
        CheckpointError: if none of these tells them, or the first two do not agree.
    """
    found: dict[str, int] = {}
    for network, pattern in (("ar", r"(en|de)coder_blocks\..*\.rope\.freqs"), ("flow", r"flownet\..*\.rope\.freqs")):
        name, width = f"{network}_heads", sizes[f"{network}_width"]
        wanted = given.get(name)
        if any(re.fullmatch(pattern, each) for each in shapes):
            found[name] = width // (4 * vote(shapes, pattern, 0))
            if wanted not in (None, found[name]):
                raise CheckpointError(f"{name}: expected {found[name]}, as the rotary tables say, got {wanted}")
        elif wanted is not None:
            found[name] = wanted
        elif preset:
            found[name] = preset.get(name, width // 64)
    if missing := {"ar_heads", "flow_heads"} - found.keys():
        options = " and ".join(sorted(missing))
        raise CheckpointError(f"checkpoint: expected rotary tables, which tell the heads, found none: say {options}")
    return found


def vote(shapes: Mapping[str, Shape], pattern: str, dimension: int) -> int:
    """The most frequent size of `dimension` among the tensors whose whole name matches `pattern`."""
    matching = [shape for name, shape in shapes.items() if re.fullmatch(pattern, name)]
    return most_common((shape[dimension] for shape in matching if len(shape) > dimension), pattern)


def depth(shapes: Mapping[str, Shape], pattern: str) -> int:
    """The number of blocks: the most frequent number of indices that one tensor of a block comes with."""
    counts = Counter(name[match.end() :] for name in shapes if (match := re.match(pattern, name)))
    return most_common(counts.values(), pattern)


def most_common(values: Iterable[int], pattern: str) -> int:
    counted = Counter(value for value in values if value > 0).most_common(1)
    if not counted:
        readable = pattern.replace("\\", "")
        raise CheckpointError(f"checkpoint: expected the tensors of a published model ({readable}), found none")
    return counted[0][0]
