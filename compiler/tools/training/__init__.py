"""Pruning with training, from files to files: what `hpcc-prune --train` does. torch is imported when a run begins."""
