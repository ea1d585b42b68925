"""Programs for GPUs: loads and runs the Triton module of a compiled bundle. Never imports the compiler."""
