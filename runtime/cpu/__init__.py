"""Programs for CPUs: loads and runs the shared library of a compiled bundle. Never imports the compiler."""
