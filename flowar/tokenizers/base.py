"""Tokenizers: images to normalised latents and back. Any autoencoder with a grid of latents will do.

Images are [B, image_channels, H, W] in [-1, 1]; latents [B, channels, H / stride, W / stride], each channel normalised
to mean 0 and variance 1 over the training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from flowar.errors import first_line, shown
from flowar.storage.weights import fingerprint, save_tensors
from flowar.system.arguments import check_integer, check_path, check_type
from flowar.system.files import write_json
from flowar.system.precision import exact_convolutions
from flowar.system.tensors import check_tensor, has_shape
from flowar.system.together import write_together
from flowar.tokenizers.tiled_decoding import decode_tiled

RECORD_FILE, WEIGHTS_FILE = "tokenizer.json", "tokenizer.safetensors"

# Pixels decoded at once: 16 images of 256 x 256, or one of 1024 x 1024. KL-16 takes 2.6 KiB for each in float32.
DECODE_PIXELS = 2**20
DECODE_DTYPES = (torch.float32, torch.bfloat16)

AnyTokenizer = TypeVar("AnyTokenizer", bound="Tokenizer")


class Tokenizer(nn.Module):
    """Base of all tokenizers: normalisation, shape checks and the record that a model keeps of its tokenizer.

    A subclass names its `kind`, implements `_posterior` and `_decode`, and lists in `options` what `from_record` needs
    besides the attributes below. One with a network names that in `decoder`, and calls `_arrange_decoder` when it has
    made it. `loading.py` finds tokenizers by their records.

    Attributes:
        image_channels: 1 for grey, 3 for RGB.
        channels, stride: of the latents.
        mean, std: [channels], of raw latents over the training images.
        decode_pixels: images of more pixels are decoded in tiles of at most so many. Not part of the record.
    """

    kind: ClassVar[str]
    decode_pixels: int = DECODE_PIXELS
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_channels: int,
        channels: int,
        stride: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.image_channels = check_integer("image_channels", image_channels)
        self.channels, self.stride = check_integer("channels", channels), check_integer("stride", stride)
        self.set_normalization(mean or [0.0] * channels, std or [1.0] * channels)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Use these statistics of raw latents, one value a channel.

        Raises:
            ValueError: unless there is one mean and one positive std for every channel.
        """
        expected = f"{self.channels} means and {self.channels} positive standard deviations"
        device = self.mean.device if hasattr(self, "mean") else None
        try:
            means, stds = (torch.tensor([*map(float, values)], device=device) for values in (mean, std))
        except (TypeError, ValueError) as error:
            got = f"{shown(mean)}, {shown(std)}"
            raise ValueError(f"tokenizer normalisation: expected {expected}, got {got}") from error
        finite = bool(torch.cat((means, stds)).isfinite().all() and (stds > 0).all())
        if len(means) != self.channels or len(stds) != self.channels or not finite:
            raise ValueError(f"tokenizer normalisation: expected {expected}, got mean {list(mean)}, std {list(std)}")
        self.register_buffer("mean", means, persistent=False)
        self.register_buffer("std", stds, persistent=False)

    @classmethod
    def from_record(cls: type[AnyTokenizer], record: Mapping[str, Any]) -> AnyTokenizer:
        """The tokenizer of a `record`, its weights apart.

        Raises:
            ValueError: for what is no mapping, and for values that no tokenizer has.
            TypeError: for fields that this kind does not have.
        """
        check_type("record", record, Mapping, "the record of a tokenizer")
        try:
            return cls._from_record(record)
        except (TypeError, KeyError, AttributeError) as error:
            got = f"{', '.join(map(str, record)) or 'nothing'} ({first_line(error)})"
            raise TypeError(f"record: expected that of a tokenizer of kind {cls.kind}, got {got}") from error

    @classmethod
    def _from_record(cls: type[AnyTokenizer], record: Mapping[str, Any]) -> AnyTokenizer:
        return cls(**{key: value for key, value in record.items() if key not in ("kind", "weights")})

    @property
    def options(self) -> dict[str, Any]:
        """What `from_record` needs besides shape and normalisation, as plain data."""
        return {}

    def record(self) -> dict[str, Any]:
        """Plain data that identifies this tokenizer and rebuilds it (its weights apart)."""
        shape = {"image_channels": self.image_channels, "channels": self.channels, "stride": self.stride}
        normalization = {name: [round(value, 6) for value in getattr(self, name).tolist()] for name in ("mean", "std")}
        weights = {"weights": self.fingerprint()} if self.state_dict() else {}
        return {"kind": self.kind} | shape | normalization | self.options | weights

    def fingerprint(self) -> str:
        """The first 16 hex digits of SHA-256 over all weights."""
        return fingerprint(self.state_dict())

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the normalised latents, each [B, c, h, w]; std 0 if there is no noise.

        Raises:
            ValueError: for images of another number of channels, or sides that `stride` does not divide, or of another
                dtype or device than the tokenizer's.
        """
        check_tensor("images", images, None, self.mean)
        divided = all(side > 0 and side % self.stride == 0 for side in images.shape[2:])
        if images.dim() != 4 or images.shape[1] != self.image_channels or not divided:
            expected = f"[B, {self.image_channels}, H, W] with H and W multiples of {self.stride}"
            raise ValueError(f"images: expected {expected}, got {list(images.shape)}")
        mean, std = self._posterior(images)
        scale = self.std[:, None, None]
        return (mean - self.mean[:, None, None]) / scale, std / scale

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents [B, c, h, w]: the posterior mean."""
        return self.posterior(images)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images [B, image_channels, H, W] in [-1, 1] from normalised latents [B, c, h, w].

        An image of more than `decode_pixels` is decoded in overlapping tiles (`tiled_decoding.py`). Decoders with group
        norms or attention, which see the whole image, there give something else: what they see is a tile.

        Args:
            latents: normalised, float32.
            dtype: float32, or bfloat16 to compute in under autocast. Float32 is the default on every device, as an
                error is tolerated by itself only if it is no larger than that of rounding to 8 bits, 59 dB. Bfloat16
                gives 59 dB with the shipped model, but 45 with KL-16: a mean error of one 8-bit level, 9 at most.
                Convolutions in float32 are exact on GPUs too, where PyTorch's own default is TF32.

        Raises:
            ValueError: for latents of another number of channels, and for another dtype or device.
        """
        raw = self.denormalize(latents)
        with autocast(raw.device, dtype), exact_convolutions():
            if raw.shape[2:].numel() * self.stride**2 <= self.decode_pixels:
                images = self._decode(raw)
            else:
                tile = max(1, math.isqrt(self.decode_pixels) // self.stride)
                images = decode_tiled(self._decode, raw, self.image_channels, self.stride, tile)
        return images.clamp(-1, 1).contiguous()

    def images_at_once(self, latents: Tensor) -> int:
        """The number of images of latents [B, c, h, w] to decode together, of `decode_pixels` in all; at least one.

        Raises:
            ValueError: for latents of another number of channels.
        """
        self._check_latents(latents)
        return max(1, self.decode_pixels // (latents.shape[2:].numel() * self.stride**2))

    def denormalize(self, latents: Tensor) -> Tensor:
        """Raw latents [B, c, h, w] from normalised ones. Raises ValueError as `decode`."""
        self._check_latents(latents)
        check_tensor("latents", latents, None, self.mean)
        return latents * self.std[:, None, None] + self.mean[:, None, None]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `tokenizer.json` (the record) and, if there are weights, `tokenizer.safetensors`.

        Whenever the process is killed, the folder has both files as they were, or both new.

        Raises:
            OSError: if writing fails; files that were there stay as they were.
        """
        weights = self.state_dict()
        with write_together(check_path("folder", folder)) as aside:
            if weights:
                save_tensors(aside / WEIGHTS_FILE, weights, {"format": "pt"})
            write_json(aside / RECORD_FILE, self.record())

    @property
    def decoder(self) -> nn.Module | None:
        """The network in `_decode` whose layout follows the device, if there is one."""
        return None

    def _check_latents(self, latents: Tensor) -> None:
        check_type("latents", latents, Tensor, "a tensor")
        if not has_shape(latents, ("B", self.channels, "h", "w")) or 0 in latents.shape[2:]:
            raise ValueError(f"latents: expected [B, {self.channels}, h, w], got {list(latents.shape)}")
        check_tensor("latents", latents, None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Tokenizer:
        """Apply `fn` to every tensor, as `to` and its like do, then lay the decoder out anew."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._arrange_decoder()
        return self

    def _arrange_decoder(self) -> None:
        """Lay the decoder's weights out as its device likes them.

        On CPUs and CUDA GPUs with channels last, in which convolutions then run: a CPU is faster so, and tensor cores
        take no other (see "Decoding" in benchmarks/README.md). Elsewhere as they are by default.
        """
        for weight in self.decoder.parameters() if self.decoder is not None else ():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=self._layout(weight.device))

    def _layout(self, device: torch.device) -> torch.memory_format:
        return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which a decoder computes in `dtype`, whatever the autocast around it.

    Raises:
        ValueError: if it is not one of `DECODE_DTYPES`.
    """
    if dtype not in DECODE_DTYPES:
        raise ValueError(f"decoding: expected dtype {' or '.join(map(str, DECODE_DTYPES))}, got {dtype}")
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
