"""Pruning an ONNX file in place of its own weights: what `hpcc-prune` and `hpcc.prune` do."""
