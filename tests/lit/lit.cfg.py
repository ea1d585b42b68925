"""lit: every .mlir file below is a test. The tools (hpcc-opt, filecheck) are those on PATH, as a user has them."""

import os
from typing import Any

import lit.formats

config: Any = globals()["config"]
config.name = "hpcc"
config.test_format = lit.formats.ShTest()
config.suffixes = [".mlir"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(os.path.dirname(__file__), "..", "..", "build", "lit")
