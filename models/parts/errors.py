"""What is wrong with a model file as a model."""


class ModelError(ValueError):
    """A hyper-parameter or tensor that is missing, malformed or out of range, by name."""
