"""Autoencoders of the diffusers library as tokenizers. diffusers is imported here alone, and only when used."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor, nn

from flowar.errors import CheckpointError, MissingPackageError, first_line
from flowar.storage.weights import check_finite
from flowar.system.arguments import check_path, check_type
from flowar.system.installation import install_command
from flowar.system.memory import check_memory
from flowar.system.rules import Range
from flowar.system.structured import as_record, read_json
from flowar.tokenizers.base import Tokenizer

log = logging.getLogger(__name__)

CLASSES = ("AutoencoderKL", "AutoencoderDC")
WEIGHTS = "diffusion_pytorch_model"
WEIGHTS_BY_WIDTH = 4 * 9 * 4  # bytes of four 3x3 convolutions for every pair of channels

# More than any autoencoder has, and few enough to be made in the twinkling of an eye.
Channels = Annotated[int, Range(1, 2**14)]
Layers = Annotated[int, Range(1, 64)]


class VaeRecord(TypedDict, total=False):
    """What a configuration of diffusers says of the size of an autoencoder."""

    in_channels: Channels
    out_channels: Channels
    latent_channels: Channels
    block_out_channels: list[Channels]
    encoder_block_out_channels: list[Channels]
    decoder_block_out_channels: list[Channels]
    layers_per_block: Layers | list[Layers]
    encoder_layers_per_block: list[Layers]
    decoder_layers_per_block: list[Layers]


class AutoencoderTokenizer(Tokenizer):
    """A diffusers `AutoencoderKL` or `AutoencoderDC`, weights and configuration saved with the tokenizer.

    Left out, mean and std are those of the autoencoder's own configuration (its scaling and shift factors).

    Attributes:
        vae: the diffusers module, frozen.
    """

    kind = "autoencoder"

    def __init__(self, vae: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        config: Any = getattr(vae, "config", None)
        check_type("vae", config, Mapping, "an autoencoder of diffusers, which has a config")
        widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
        own_mean, own_std = configured_normalization(config)
        super().__init__(
            config["in_channels"], config["latent_channels"], 2 ** (len(widths) - 1), mean or own_mean, std or own_std
        )
        self.vae: Any = vae.eval().requires_grad_(False)
        self._arrange_decoder()

    @classmethod
    def from_diffusers(cls, folder: str | Path) -> AutoencoderTokenizer:
        """The autoencoder of a folder in diffusers' format, or in its subfolder `vae` (safetensors only).

        Where there are weights of a variant alone, such as fp16, these are taken, in float32.

        Raises:
            CheckpointError: if there is none, it is of another class, or its files are unreadable or not finite.
            MissingPackageError: without diffusers.
        """
        folder = check_path("folder", folder)
        if (folder / "vae" / "config.json").is_file():
            folder = folder / "vae"
        config, variant = read_json(folder / "config.json", dict), stored_variant(folder)
        check_vae(folder / "config.json", config)
        kind = autoencoder_class(config.get("_class_name"))
        options = {"use_safetensors": True, "low_cpu_mem_usage": False, "torch_dtype": torch.float32}
        try:
            vae, about = kind.from_pretrained(folder, variant=variant, output_loading_info=True, **options)
            tokenizer = cls(vae)
        except Exception as error:  # damaged files make diffusers fail in many ways
            raise CheckpointError(f"{folder}: expected an autoencoder of diffusers: {first_line(error)}") from error
        for problem in ("missing", "unexpected"):  # of which diffusers warns alone, and draws what is missing
            if names := about[f"{problem}_keys"]:
                raise CheckpointError(f"{folder}: {problem} tensor {names[0]} (of {len(names)}), by its config.json")
        check_finite(folder, vae.state_dict())
        return tokenizer

    @classmethod
    def _from_record(cls, record: Mapping[str, Any]) -> AutoencoderTokenizer:
        config = dict(record["vae"])
        vae = autoencoder_class(config.pop("class")).from_config(config)
        return cls(vae, record["mean"], record["std"])

    @property
    def options(self) -> dict[str, Any]:
        config = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        plain: dict[str, Any] = json.loads(json.dumps(config))  # tuples become lists, as they will in the file
        return {"vae": {"class": type(self.vae).__name__} | plain}

    @property
    def decoder(self) -> nn.Module:
        return self.vae.decoder

    def _layout(self, device: torch.device) -> torch.memory_format:
        """AutoencoderDC gains nothing by another layout on a CPU."""
        default = device.type == "cpu" and type(self.vae).__name__ == "AutoencoderDC"
        return torch.contiguous_format if default else super()._layout(device)

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.vae.encode(images.to(self.vae.dtype))
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
        latents = encoded.latent.float()
        return latents, torch.zeros_like(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.vae.decode(latents.to(self.vae.dtype)).sample
        return images.float()


def check_vae(path: Path, config: Mapping[str, Any]) -> None:
    """Check the size of an autoencoder that a file's configuration asks for.

    Raises:
        CheckpointError: if it is none.
        FlowARError: if it does not fit into the memory, with the estimate.
    """
    vae = as_record(config, VaeRecord, str(path))
    check_widths(path, vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [])


def check_widths(path: Path, widths: Sequence[int]) -> None:
    """Check that the convolutions of an autoencoder, by resolution, fit into the memory. Raises FlowARError."""
    check_memory(str(path), f"widths {[*widths]}", WEIGHTS_BY_WIDTH * sum(width**2 for width in widths))


def stored_variant(folder: Path) -> str | None:
    """The variant that the weights in a folder of diffusers come in, if there are none that are of no variant.

    Raises:
        CheckpointError: if there are pickled weights alone, and if there are several variants.
    """
    if (folder / f"{WEIGHTS}.safetensors").is_file():
        return None
    found = sorted(path.name.split(".")[1] for path in folder.glob(f"{WEIGHTS}.*.safetensors"))
    if "fp16" in found or len(found) == 1:
        variant = "fp16" if "fp16" in found else found[0]
        log.info("%s: taking the weights of variant %s", folder, variant)
        return variant
    got = f"variants {', '.join(found)}" if found else f"{WEIGHTS}.bin, which is pickled, alone"
    if found or (folder / f"{WEIGHTS}.bin").is_file():
        raise CheckpointError(f"{folder}: expected {WEIGHTS}.safetensors, got {got}")
    return None


def configured_normalization(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and std [channels] of raw latents, as a diffusers configuration states them."""
    channels = config["latent_channels"]
    mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
    std = config.get("latents_std") or [1.0] * channels
    return list(mean), [value / config["scaling_factor"] for value in std]


def autoencoder_class(name: object) -> Any:
    """The diffusers class of that name.

    Raises:
        CheckpointError: for a class that is not in `CLASSES`.
        MissingPackageError: without diffusers.
    """
    if name not in CLASSES:
        raise CheckpointError(f"tokenizer: expected a diffusers {' or '.join(CLASSES)}, got {name}")
    try:
        import diffusers
    except ImportError as error:
        raise MissingPackageError(f"tokenizer: {name} needs diffusers: {install_command('vae')}") from error
    return getattr(diffusers, str(name))
