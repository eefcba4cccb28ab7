"""The GAN step and what executes it."""
