"""Pictures of what a model does, each a function of a pipeline that gives a PIL image."""
