"""An example for hpcc: a board of one's own, known by name wherever a target is asked for."""

from pathlib import Path

BOARD = Path(__file__).with_name("workbench.toml")
