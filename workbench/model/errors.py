"""What goes wrong with a model that a user named: one typed error, always with advice."""


class ModelError(Exception):
    """A model cannot be loaded or served; says what was wanted, what came, what to do."""
