"""The paper's experiments, rerun at a scale that one machine can do: `python -m experiments.run --help`."""
