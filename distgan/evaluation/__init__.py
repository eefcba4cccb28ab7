"""Image quality."""
