"""`distgan bench`: measurements of training speed and convergence; each turn in a separate process."""
