"""Getting processes onto machines."""
