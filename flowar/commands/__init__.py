"""The subcommands, one per module: a dataclass `Options`, and `run(options)`."""
