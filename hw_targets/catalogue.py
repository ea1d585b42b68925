"""Targets by name: those that ship with the project, and those of other packages. It reads TOML and nothing else: listing
them must take no time.

Another package names a target file of its own under the entry point `hpcc.targets`: the point's name is the target's, its
object the file's path.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from hw_targets.errors import InputError

FOLDER = Path(__file__).parent
ENTRY_POINTS = "hpcc.targets"


def target_files() -> dict[str, Path]:
    """The shipped target files by target name (the file's stem, which is KIND-NAME), in order of name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*-*.toml"))}


def plugin_files() -> dict[str, Path]:
    """The target files of other packages by target name. Raises InputError for a name that is taken, or no path."""
    from importlib.metadata import entry_points

    found: dict[str, Path] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        path = point.load()
        if not isinstance(path, str | Path):
            raise InputError("HPCC1845", f"the target {point.name!r} of {point.value} is no path of a .toml file")
        if point.name in target_files():
            raise InputError("HPCC1846", f"the target {point.name!r} of {point.value} has the name of another")
        found[point.name] = Path(path)
    return found


def list_targets() -> list[tuple[str, str, str]]:
    """(name, kind, one-line summary) of every target.

    Raises InputError for a file of another package that cannot be read."""
    listed: list[tuple[str, str, str]] = []
    for name, path in (target_files() | plugin_files()).items():
        with path.open("rb") as file:
            document = tomllib.load(file)
        listed.append((name, str(document["kind"]), str(document["summary"])))
    return listed
