"""Both transformers, their parts, and the latent pyramid between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowar.system.lazy import lazy_names

if TYPE_CHECKING:
    from flowar.networks.ar_transformer import ARTransformer
    from flowar.networks.attention_backends import set_attention_backend, use_attention_backend
    from flowar.networks.flow_transformer import AttnCrossMLPBlock, AttnMLPBlock, BlockContext, FlowTransformer
    from flowar.networks.layers import ResidualStream

__all__ = [
    "ARTransformer",
    "AttnCrossMLPBlock",
    "AttnMLPBlock",
    "BlockContext",
    "FlowTransformer",
    "ResidualStream",
    "set_attention_backend",
    "use_attention_backend",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ar_transformer": ["ARTransformer"],
        "attention_backends": ["set_attention_backend", "use_attention_backend"],
        "flow_transformer": ["AttnCrossMLPBlock", "AttnMLPBlock", "BlockContext", "FlowTransformer"],
        "layers": ["ResidualStream"],
    },
)
