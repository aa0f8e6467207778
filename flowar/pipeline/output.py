"""What a pipeline's call gives: pictures in the form that was asked for, and what they came from."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowar.images.grid import to_pil
from flowar.images.shown import tile
from flowar.pipeline.contact_sheet import MOST_TILES, contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

OutputType = Literal["pil", "np", "pt", "latent"]
Pictures = Any  # by the output type: a list of PIL images, an array, a tensor


@dataclass(frozen=True, eq=False, repr=False)
class PipelineOutput:
    """Pictures and what they came from: by attribute, or as diffusers' outputs by name or number.

    A notebook shows it as a contact sheet, with the class and the seed of every picture.

    Attributes:
        images: the pictures, one per label in their order: PIL images in a list, a numpy array [B, H, W, C] or a tensor
            [B, C, H, W] of float32 in [0, 1], or the latents, by `output_type`.
        latents: the normalised latents [B, c, h, w] that the pictures were decoded from.
        seeds: one per picture; `pipe(class_labels, seed=out.seeds)` draws all of them again, and one seed with its
            label that picture alone. None where `noise` was given.
        classes: the name of each picture's class, or "class 3" where classes have no names; "no class" without one.
    """

    images: Pictures
    latents: Tensor
    seeds: list[int] | None
    classes: list[str]

    def to_tuple(self) -> tuple[Any, ...]:
        """Images, latents, seeds and classes."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def __getitem__(self, key: int | slice | str) -> Any:
        return vars(self)[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(fields(self))

    def __repr__(self) -> str:
        latents = "x".join(map(str, self.latents.shape[1:]))
        about = f"latents {latents}, classes {self.classes}, seeds {self.seeds}"
        return f"PipelineOutput({len(self.classes)} images, {about})"

    def _repr_png_(self) -> bytes | None:
        """The contact sheet as a PNG, for notebooks; None for latents, which are no pictures."""
        images = self._first_pictures()
        return png(contact_sheet(images, self._captions())) if images else None

    def _repr_html_(self) -> str | None:
        """The contact sheet with text that can be copied; None for latents."""
        figures = [figure(*each) for each in zip(self._first_pictures(), self._captions(), strict=False)]
        if not figures:
            return None
        more = len(self.classes) - len(figures)
        rest = f"<p>and {more} more</p>" if more else ""
        return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{"".join(figures)}</div>{rest}'

    def _captions(self) -> list[list[str]]:
        """What is written below every picture: its class and its seed."""
        if self.seeds is None:
            return [[name] for name in self.classes]
        return [[name, f"seed {seed}"] for name, seed in zip(self.classes, self.seeds, strict=True)]

    def _first_pictures(self) -> list[Image]:
        """As many pictures as a contact sheet shows; none where these are latents."""
        if self.images is self.latents:
            return []
        first = self.images[:MOST_TILES]
        if isinstance(first, np.ndarray):
            first = torch.from_numpy(first).permute(0, 3, 1, 2)
        return to_pil(first * 2 - 1) if isinstance(first, Tensor) else first


class Conversion(NamedTuple):
    """How images [B, C, H, W] in [-1, 1] take the form of an output type, and how parts of a batch become one."""

    convert: Callable[[Tensor], Pictures]
    join: Callable[[Sequence[Pictures]], Pictures]


def from_zero_to_one(images: Tensor) -> Tensor:
    """Images in [0, 1], from those in [-1, 1]."""
    return images / 2 + 0.5


CONVERSIONS = {
    "pil": Conversion(to_pil, lambda parts: [*chain.from_iterable(parts)]),
    "np": Conversion(lambda images: from_zero_to_one(images).permute(0, 2, 3, 1).cpu().numpy(), np.concatenate),
    "pt": Conversion(from_zero_to_one, lambda parts: torch.cat([*parts])),
}


def figure(image: Image, caption: Sequence[str]) -> str:
    """A picture with its caption in HTML; small ones are enlarged by the browser, pixels as squares."""
    source, width = b64encode(png(image)).decode(), tile(image).width
    shown = f'<img style="width: {width}px; image-rendering: pixelated" src="data:image/png;base64,{source}">'
    text = f'<figcaption style="font-size: small">{"<br>".join(map(escape, caption))}</figcaption>'
    return f'<figure style="margin: 0; max-width: {2 * width}px">{shown}{text}</figure>'


def png(image: Image) -> bytes:
    """A picture as a file."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
