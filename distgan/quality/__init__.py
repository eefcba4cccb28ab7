"""The pinned judges, and everything that is measured with them."""
