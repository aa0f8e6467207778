"""Tiles: they cover the image with weights that sum to 1, change nothing of local decoders, and bound memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from conftest import psnr
from torch import Tensor, nn

from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.tokenizers.tiled_decoding import decode_tiled, spans

CPU = torch.device("cpu")
SIZES = [1, 7, 15, 16, 17, 20, 23, 28, 29, 31, 32, 47, 64, 97, 101]


class LocalDecoder(nn.Module):
    """A 3x3 convolution of latents, then of pixels: no pixel depends on latents more than 2 away."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=stride), nn.Conv2d(8, 3, 3, padding=1)
        ).requires_grad_(False)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, latents: Tensor) -> Tensor:
        self.seen.append(tuple(latents.shape))
        return self.layers(latents)


def conv() -> Tokenizer:
    return ConvTokenizer(1, 4, (8, 16, 16), mean=[0.5, 0.0, 0.0, -0.25], std=[1.5, 1.0, 2.0, 0.5]).eval()


@pytest.mark.parametrize("tile", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_spans(size: int, tile: int) -> None:
    made, total = spans(size, tile, 3, CPU), torch.zeros(size * 3)
    for span in made:
        assert 0 <= span.start < span.stop <= size
        assert span.stop - span.start == made[0].stop <= tile
        assert span.weights.shape == ((span.stop - span.start) * 3,)
        assert span.weights.min() >= 0
        total[span.start * 3 : span.stop * 3] += span.weights
    torch.testing.assert_close(total, torch.ones(size * 3), rtol=0, atol=1e-6)
    assert (len(made) == 1) == (size <= tile)
    for previous, following in pairwise(made):
        assert previous.stop - following.start >= tile // 4


def test_weights_pass_linearly_over_the_middle_half_of_the_overlap() -> None:
    """28 latents are two tiles of 16: 12 apart, 4 common latents of 8 pixels."""
    assert [(span.start, span.stop) for span in spans(28, 16, 8, CPU)] == [(0, 16), (12, 28)]
    first, second = (span.weights for span in spans(28, 16, 8, CPU))
    ramp = (torch.arange(16) + 0.5) / 16
    assert torch.equal(second[:32], torch.cat([torch.zeros(8), ramp, torch.ones(8)]))
    assert torch.equal(first[-32:], 1 - second[:32])
    assert first[:-32].eq(1).all()
    assert second[32:].eq(1).all()


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 33, 101), (2, 101, 16), (1, 32, 95), (0, 40, 40)])
def test_local_decoder_gives_the_whole_image(shape: tuple[int, int, int]) -> None:
    """With tiles of 32: what is 2 latents or less from the edge of a tile has weight 0 in it."""
    decoder, latents = LocalDecoder(3), torch.randn(shape[0], 4, *shape[1:])
    images = decode_tiled(decoder, latents, 3, 3, 32)
    assert decoder.seen or not shape[0]
    torch.testing.assert_close(images, decoder.layers(latents), rtol=0, atol=1e-5)


def test_memory_is_that_of_a_tile_of_one_image() -> None:
    for size in (40, 80, 160):
        decoder = LocalDecoder(2)
        decode_tiled(decoder, torch.randn(2, 4, size, size + 5), 3, 2, 32)
        assert {shape[0] for shape in decoder.seen} == {1}
        assert max(max(shape[2:]) for shape in decoder.seen) <= 32
        assert len(decoder.seen) == 2 * len(spans(size, 32, 2, CPU)) * len(spans(size + 5, 32, 2, CPU))


class TestTokenizer:
    def test_decoder_sees_at_most_so_many_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tokenizer, seen = conv(), []
        decode = tokenizer._decode
        monkeypatch.setattr(tokenizer, "_decode", lambda z: (seen.append(z.shape), decode(z))[1])
        tokenizer.decode_pixels = 64 * 64
        images = tokenizer.decode(torch.randn(2, 4, 19, 45))
        assert images.shape == (2, 1, 76, 180)
        assert max(shape.numel() // 4 * 16 for shape in seen) <= tokenizer.decode_pixels
        assert len(seen) == 2 * 2 * 4

    @pytest.mark.parametrize("shape", [(16, 16), (8, 32)])
    def test_up_to_the_limit_nothing_changes(self, shape: tuple[int, int]) -> None:
        tokenizer, latents = conv(), torch.randn(3, 4, *shape)
        whole = tokenizer._decode(tokenizer.denormalize(latents)).clamp(-1, 1)
        tokenizer.decode_pixels = 64 * 64
        assert torch.equal(tokenizer.decode(latents), whole)
        tokenizer.decode_pixels -= 1
        tiled = tokenizer.decode(latents)
        assert tiled.shape == whole.shape
        assert not torch.equal(tiled, whole)

    @pytest.mark.parametrize("limit", [1, 16, 100, 4000])
    def test_tiles_of_pixels_are_the_image(self, limit: int) -> None:
        """The limit may be smaller than a latent."""
        tokenizer = PixelTokenizer(3, 4)
        images = torch.rand(2, 3, 44, 92) * 2 - 1
        tokenizer.decode_pixels = limit
        torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), images, rtol=0, atol=1e-5)

    def test_tiles_are_clamped(self) -> None:
        tokenizer = PixelTokenizer(1, 2)
        tokenizer.decode_pixels = 64
        assert tokenizer.decode(torch.full((1, 4, 9, 9), 3.0)).eq(1).all()

    def test_tiles_in_bfloat16(self) -> None:
        tokenizer, latents = conv(), torch.randn(1, 4, 24, 24)
        tokenizer.decode_pixels = 64 * 64
        low, full = tokenizer.decode(latents, torch.bfloat16), tokenizer.decode(latents)
        assert low.dtype == torch.float32
        assert 40 < psnr(low, full) < 70

    def test_images_at_once(self) -> None:
        tokenizer = conv()
        for size, count in ((7, 1337), (64, 16), (128, 4), (256, 1), (300, 1)):
            assert tokenizer.images_at_once(torch.zeros(5, 4, size, size)) == count
