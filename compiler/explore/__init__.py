"""The mathematics of choosing a device: spaces, scores with their bounds, fronts, limits. Knows no IR, no files."""
