"""Editing without training: what is known of a picture is pinned at every scale, and the rest is sampled beside it."""
