"""Output of a run."""
