"""The targets that ship with the project, by name. It reads TOML and nothing else: listing them must take no time."""

from __future__ import annotations

import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent


def target_files() -> dict[str, Path]:
    """The shipped target files by target name (the file's stem, which is KIND-NAME), in order of name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*-*.toml"))}


def list_targets() -> list[tuple[str, str, str]]:
    """(name, kind, one-line summary) of every shipped target."""
    listed: list[tuple[str, str, str]] = []
    for name, path in target_files().items():
        with path.open("rb") as file:
            document = tomllib.load(file)
        listed.append((name, str(document["kind"]), str(document["summary"])))
    return listed
