"""Both transformers, their parts, and the latent pyramid between them."""
