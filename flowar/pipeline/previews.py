"""Pictures of what sampling has reached, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flowar.pipeline.options import Preview

if TYPE_CHECKING:
    from PIL.Image import Image


def previewing(
    decode: Callable[[Tensor, int], list[Image]], preview: Preview, callback: Callable[..., None] | None
) -> Callable[..., None]:
    """An `on_scale` or `on_evaluation` of `FlowAR.sample`: calls `callback`, if there is one, then `preview`.

    Both are called with the number of the scale first and its tokens last; `decode` makes pictures of these two.
    """

    def call(scale: int, *details: Any) -> None:
        if callback is not None:
            callback(scale, *details)
        preview(scale, decode(details[-1], scale))

    return call
