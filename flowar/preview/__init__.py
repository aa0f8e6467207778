"""Pictures while they form: the scales of sampling, decoded, on a terminal or as a film."""
