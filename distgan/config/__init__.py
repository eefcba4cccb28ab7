"""Settings: schema, registries, presets, flags."""
