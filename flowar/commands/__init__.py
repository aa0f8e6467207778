"""One module a subcommand: a dataclass `Options`, and `run(options)`."""
