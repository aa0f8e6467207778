"""What we make of each experiment's results, by budget: written by hand, below its table in README.md.

Rows that change want to be read again.
"""

from __future__ import annotations

READINGS: dict[str, dict[str, str]] = {
    "small": {
        "sizes": "Larger is better with every seed: at equal steps, not at equal time.",
        "tokenizers": (
            "The one pair that both have is in the paper's order with every seed, and all four latent spaces can be "
            "learned, which is the paper's claim. It is not what a tokenizer loses that decides: the real latents of "
            "all scales decode to distances of 6 (pixel patches), 26 (AutoencoderDC), 67 (AutoencoderKL) and 28 "
            "(convolutional). Pixel patches lose nothing and are the hardest to generate."
        ),
        "scale-sequence": (
            "The opposite of the paper, with every seed. Given the real 4x4 scale, both draw the last one equally well "
            "(distances 90 and 91, seed 0); given the real 2x2 they have 133 and 153, so what differs is how well "
            "coarse scales are drawn. Averaging takes the variance out of these: the standard deviations of averages "
            "are 0.31, 0.43, 0.63 and 1 by scale, those of encoded images 0.93, 1.12, 1.02 and 1. Under noise of "
            "deviation 1, a thousand steps may be too few for the small ones. And what may spoil coarse scales in "
            "the paper, a VAE of stride 16 that sees images of 16 pixels, is no matter to one of stride 4."
        ),
        "scales": (
            "Not the paper's order as drawn, but its very order where the coarser scales are real: the last one alone "
            "has distances of 135 for {1, 2, 7}, 117 for {1, 4, 7}, 91 for doubling and 73 for the dense sequence "
            "(seed 0). So finer steps do make a scale easier, as the paper says. When the model draws all of them, "
            "177, 235, 197 and 447, errors of the coarse scales outweigh that: there are more of them to learn, they "
            "weigh n_k / n_last in the loss, and a thousand steps are few. With a longer training we expect the order "
            "to turn; that is not measured."
        ),
        "flow-model": (
            "Both of the paper's steps are there with every seed: flow matching is ahead of diffusion, per token and "
            "per scale, and all tokens of a scale together are ahead of each alone, in flow and in diffusion. But here "
            "the first step is the larger one, so flow matching per token comes before diffusion per scale. Too few "
            "evaluations are not the reason, as with 50 instead of 10 the two have 218 and 265 (seed 0). Noise may "
            "take longer to learn than velocity: the image that follows from it near t = 1 has its errors magnified, "
            "and a thousand steps leave large ones."
        ),
        "injection": (
            "The ends are the paper's, with every seed: Spatial-adaLN is the best and pooling by far the worst, since "
            "it cannot say where anything is. The others lie close together and within reach of chance, but for "
            "sequence concatenation, clearly ahead of addition. It may suffer least from a small grid: among 49 "
            "positions attention finds a token's own semantics sooner than among the paper's 256."
        ),
        "blocks": "Distances differ by less than chance; `attn_cross_mlp` varies more from seed to seed.",
        "qk-norm": "Norms cost no quality: distances differ by less than chance.",
        "steps": (
            "More steps come nearer to the real distribution, and 50 hardly nearer than 25. Agreement falls meanwhile: "
            "few steps draw what is typical of a class, which is easy to tell and not varied enough."
        ),
        "recipe": (
            "Times and Muon each lower the distance (by 5 and 8 %, within reach of chance), and together by 18 % with "
            "every seed. Noise on the context raises agreement, with every seed and beside everything else (.80 to "
            ".86, .84 to .90), and the distance too: pictures are of their class and less varied. Alignment hurts by "
            "itself, and with the other three has the best agreement of all and the second distance. Weights by scale, "
            "the length of averages, the shape of the flow network and bfloat16 make no difference beyond chance, but "
            "for equal weights of all scales (exponent 0), which are worse. Models that ship learned with times, "
            "noise of 0.5 and Muon: agreement is what one sees in a picture. What noise costs in distance after a "
            "thousand steps need not be what it costs after thirty thousand; that is not measured."
        ),
    },
    "gpu": {},
}
