"""New tokenizers to train, small enough for images of a few dozen pixels. Those of diffusers need it installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowar.tokenizers.autoencoder import AutoencoderTokenizer, autoencoder_class
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.widths import NORM_GROUPS

HEAD_WIDTH = 8  # of the linear attention in AutoencoderDC
ATTENTION_WINDOW = (5,)  # that its queries, keys and values are averaged over besides, as in the published ones


def new_tokenizer(kind: str, image_channels: int, channels: int, widths: Sequence[int]) -> Tokenizer:
    """A tokenizer with fresh weights, not yet normalised; its stride is 2 ** (len(widths) - 1).

    Args:
        kind: `conv`, or the class of diffusers.
        image_channels: 1 for grey, 3 for RGB.
        channels: of the latents.
        widths: channels of the autoencoder, one per resolution, finest first; `check_widths` says which ones.

    Raises:
        MissingPackageError: if it needs diffusers, which is not installed.
    """
    makers: dict[str, Callable[[int, int, Sequence[int]], Tokenizer]] = {
        "conv": ConvTokenizer,
        "AutoencoderKL": autoencoder_kl,
        "AutoencoderDC": autoencoder_dc,
    }
    return makers[kind](image_channels, channels, widths)


def autoencoder_kl(image_channels: int, channels: int, widths: Sequence[int]) -> AutoencoderTokenizer:
    """A small autoencoder of Stable Diffusion's kind.

    It has one residual block per resolution (two in the decoder) and attention at the coarsest.
    """
    vae = autoencoder_class("AutoencoderKL")(
        in_channels=image_channels,
        out_channels=image_channels,
        latent_channels=channels,
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=NORM_GROUPS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
    )
    return AutoencoderTokenizer(vae)


def autoencoder_dc(image_channels: int, channels: int, widths: Sequence[int]) -> AutoencoderTokenizer:
    """A small DC-AE, which has no posterior.

    It has one residual block per resolution, and linear attention instead at the coarsest.
    """
    finer = len(widths) - 1
    sides = {
        "block_types": ("ResBlock",) * finer + ("EfficientViTBlock",),
        "block_out_channels": tuple(widths),
        "layers_per_block": (1,) * len(widths),
        "qkv_multiscales": ((),) * finer + (ATTENTION_WINDOW,),
    }
    vae = autoencoder_class("AutoencoderDC")(
        in_channels=image_channels,
        latent_channels=channels,
        attention_head_dim=HEAD_WIDTH,
        scaling_factor=1.0,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()},
    )
    return AutoencoderTokenizer(vae)
