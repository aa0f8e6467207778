"""Training of models and tokenizers."""
