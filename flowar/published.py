"""The authors' checkpoints: their tensor names, and the configuration read off their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from flowar.config import PRESETS, FlowARConfig

Shape = Sequence[int]

# Ours to theirs, in order of application. "{encoder|decoder}_blocks" needs the depth: see `published_name`.
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
# Tensors that the authors' modules registered as buffers: all of them follow from the configuration.
BUFFERS = re.compile(r"^mask$|\.rope\.freqs$")


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


def infer_config(shapes: Mapping[str, Shape]) -> FlowARConfig:
    """The configuration of a published checkpoint: widths and depths from shapes, the rest from the preset they match.

    Heads are not visible in shapes: a model of a preset's size gets its heads, any other D / 64.

    Raises:
        ValueError: if a tensor that the configuration is read from is missing, or the grid is not a doubled square.
    """
    for needed in ("encoder_pos_embed_learned", "class_emb.weight", "z_proj.weight", "flownet.input_proj.weight"):
        if needed not in shapes:
            raise ValueError(f"checkpoint: expected a tensor named {needed}, found none")
    blocks = [name.split(".")[:3] for name in shapes]
    tokens = shapes["encoder_pos_embed_learned"][1]
    sides = [side for side in (2**k for k in range(1, 16)) if (4 * side * side - 1) // 3 == tokens]
    if not sides:
        raise ValueError(f"encoder_pos_embed_learned: expected the tokens of scales 1, 2, 4, ..., got {tokens}")
    sizes = {
        "ar_width": shapes["class_emb.weight"][1],
        "ar_depth": len({(b[0], b[1]) for b in blocks if b[0] in ("encoder_blocks", "decoder_blocks")}),
        "flow_width": shapes["flownet.input_proj.weight"][0],
        "flow_depth": len({b[2] for b in blocks if b[:2] == ["flownet", "res_blocks"]}),
        "flow_block": "attn_cross_mlp" if any(".crossattn." in name for name in shapes) else "attn_mlp",
    }
    matching = [p for p in PRESETS.values() if all(({"flow_block": "attn_mlp"} | p)[k] == v for k, v in sizes.items())]
    heads = {"ar_heads": max(1, sizes["ar_width"] // 64)}
    return FlowARConfig(
        latent_channels=shapes["z_proj.weight"][1],
        latent_size=sides[0],
        num_classes=shapes["class_emb.weight"][0] - 1,
        **(heads | sizes | (matching[0] if matching else {})),
    )


def check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Strict comparison of checkpoint tensors with what the model needs.

    Raises:
        ValueError: naming the first missing, unexpected or misshapen tensor, and how many there are.
    """
    problems = [f"missing tensor {name}" for name in expected if name not in found]
    problems += [f"unexpected tensor {name}" for name in found if name not in expected]
    problems += [
        f"tensor {name}: expected shape {list(shape)}, got {list(found[name])}"
        for name, shape in expected.items()
        if name in found and list(found[name]) != list(shape)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ValueError(f"checkpoint: {problems[0]}{more}")


def published_shapes(model: torch.nn.Module, config: FlowARConfig) -> dict[str, list[int]]:
    """Every tensor name and shape that the authors' file of this model has, buffers apart."""
    shapes = {}
    for name, parameter in model.state_dict().items():
        names = published_names(name, config)
        for published in names:
            shapes[published] = [parameter.shape[0] // len(names), *parameter.shape[1:]]
    return shapes
