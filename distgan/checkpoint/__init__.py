"""Save and resume."""
