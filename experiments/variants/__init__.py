"""The models of the experiments by name: FlowAR, and what the paper compares it with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from experiments.variants import flow_model, injection
from experiments.variants.alignment import AlignedFlowAR, encode_with_features
from experiments.variants.scale_sequence import EncodedScalesFlowAR, encode_scales
from flowar import FlowAR, FlowARConfig
from flowar.networks.flow_transformer import FlowTransformer
from flowar.networks.initialization import initialize
from flowar.tokenizers.base import Tokenizer


def with_flow(flow: type[FlowTransformer], config: FlowARConfig, model: type[FlowAR] = FlowAR) -> FlowAR:
    """A new model whose flow transformer is of another kind."""
    made = model(config)
    made.flow_transformer = flow(config)
    initialize(made.flow_transformer)
    return made


MODELS: dict[str, Callable[[FlowARConfig], FlowAR]] = {
    "flowar": FlowAR,
    "encoded scales": EncodedScalesFlowAR,
    "aligned": AlignedFlowAR,
    "pooled adaLN": partial(with_flow, injection.PooledAdaLN),
    "sequence concatenation": partial(with_flow, injection.SequenceConcatenation),
    "addition": partial(with_flow, injection.Addition),
    "cross-attention": partial(with_flow, injection.CrossAttentionOnly),
    "channel concatenation": partial(with_flow, injection.ChannelConcatenation),
    "per-token flow": partial(with_flow, flow_model.PerToken),
    "per-scale diffusion": partial(with_flow, flow_model.Epsilon, model=flow_model.DiffusionFlowAR),
    "per-token diffusion": partial(with_flow, flow_model.PerTokenEpsilon, model=flow_model.DiffusionFlowAR),
}


def engine_serves(model: FlowAR) -> bool:
    """Whether the inference plan knows this model; the published algorithm samples from any."""
    return type(model.flow_transformer) is FlowTransformer


def posterior(model: FlowAR, tokenizer: Tokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what `model` trains on, for images [B, channels, H, W] in [-1, 1]."""
    if isinstance(model, EncodedScalesFlowAR):
        return encode_scales(tokenizer, images, model.config)
    if isinstance(model, AlignedFlowAR):
        return encode_with_features(tokenizer, images)
    return tokenizer.posterior(images)


def latents_key(model: FlowAR) -> tuple[object, ...]:
    """What the latents that `model` trains on depend on besides the tokenizer: with equal keys, they are the same."""
    if isinstance(model, EncodedScalesFlowAR):
        return EncodedScalesFlowAR, model.config.grids
    return (AlignedFlowAR,) if isinstance(model, AlignedFlowAR) else ()
