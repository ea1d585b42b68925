"""What programs in steps, for CPUs and GPUs, share: their manifest, their files, and how batches go through them."""
