"""The numbers of the published sampler with less work."""
