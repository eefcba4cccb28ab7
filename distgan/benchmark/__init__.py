"""`distgan bench`: how fast training is, measured; each turn in a process of its own."""
