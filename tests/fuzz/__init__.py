"""Structured fuzzing of everything that reads a user's files: `make fuzz`, or `python -m tests.fuzz --help`.

corpus.py builds small whole files, edits.py damages them, cases.py makes a command line of them, sandbox.py runs the
command in a child process and judges what it did. A case is made from its kind and a number alone, so a failure can be
made again. A few hundred fixed cases run in `make test` (tests/e2e/test_fuzz.py).
"""
