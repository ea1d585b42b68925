"""`python -m tests.fuzz --seconds 60`: cases one after another until the time is over; exit status 1 if one fails."""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.fuzz import cases, corpus, sandbox

BUILD = Path(__file__).parents[2] / "build" / "fuzz"


def attempt(kind: str, number: int, shelf: Path, failures: Path | None) -> sandbox.Outcome:
    """Make and run one case in a folder that is gone afterwards; a failure is kept in `failures`."""
    with tempfile.TemporaryDirectory(prefix="hpcc-fuzz-") as place:
        original = Path(place) / "original" / "case"
        original.mkdir(parents=True)
        case = cases.make(kind, number, shelf, original)
        outcome = sandbox.run(case, Path(place) / "room", original)
        if outcome.problems and failures is not None:
            again = sandbox.run(replace(case, arguments=(*case.arguments, "--debug")), Path(place) / "again", original)
            sandbox.keep(outcome, original, failures, again.err)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=None, help="number of the first case (default: the clock's)")
    parser.add_argument("--kind", choices=cases.KINDS, action="append", help="only cases of this kind")
    parser.add_argument("--case", metavar="KIND-NUMBER", help="run this case again and print what it says")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    corpus.build(BUILD / "corpus")
    if options.case:
        kind, _, number = options.case.partition("-")
        outcome = attempt(kind, int(number), BUILD / "corpus", BUILD / "failures")
        print(f"{outcome.case.tool} {' '.join(outcome.case.arguments)}\n{outcome.err}{outcome.out[:3000]}")
        print(f"status {outcome.status}, {outcome.seconds:.1f} s, {outcome.resident >> 20} MB: {outcome.problems or 'ok'}")
        return int(bool(outcome.problems))
    return campaign(options)


def campaign(options: argparse.Namespace) -> int:
    first = options.seed if options.seed is not None else int(time.time())
    kinds = options.kind or list(cases.KINDS)
    weights = [cases.WEIGHTS[kind] for kind in kinds]
    chooser = random.Random(first)
    done, failed, codes = Counter[str](), Counter[str](), Counter[str]()
    slowest, largest = 0.0, 0
    start, number, said = time.monotonic(), first, 0.0
    print(f"fuzzing for {options.seconds:.0f} s from seed {first}; failures go to {BUILD / 'failures'}", flush=True)
    try:
        while time.monotonic() - start < options.seconds:
            kind = chooser.choices(kinds, weights)[0]
            outcome = attempt(kind, number, BUILD / "corpus", BUILD / "failures")
            done[kind] += 1
            codes[outcome.code or f"status {outcome.status}"] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.resident)
            if outcome.problems:
                failed[kind] += 1
                print(f"FAILED {outcome.case.name}: {'; '.join(outcome.problems)}", flush=True)
            number += 1
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{said - start:6.0f} s: {done.total()} cases, {failed.total()} failures", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    seconds = time.monotonic() - start
    print(f"{done.total()} cases in {seconds:.0f} s, seeds {first} to {number - 1}, {failed.total()} failures")
    print("  " + ", ".join(f"{kind} {done[kind]} ({failed[kind]} failed)" for kind in kinds))
    print(f"  slowest {slowest:.1f} s, largest {largest >> 20} MB resident")
    print("  " + ", ".join(f"{name} {count}" for name, count in codes.most_common()))
    return int(failed.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
