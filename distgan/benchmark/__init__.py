"""`distgan bench`: measurements of training speed and convergence; each in a fresh process."""
