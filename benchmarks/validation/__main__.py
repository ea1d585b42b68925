"""`python -m benchmarks.validation`: docs/VALIDATION.md; `--only SECTION` makes one anew and keeps the others' figures."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import heading_of, page_of, sections_of
from benchmarks.validation import ablations, closed_forms, peers, prepared, prose, published
from benchmarks.workloads import generated_model, l3_model, l6_model, tokenizer
from hw_targets.errors import HpccError
from hw_targets.load import load_target

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "VALIDATION.md"
BOARD = "fpga-u280"
MODELS = ("BERT-base", "L3", "L6")
FORM_MODELS = (("BERT-base", "dense"), ("BERT-base", "hp:0.75"), ("BERT-base", "nm:2:8"))


def model_of(name: str) -> Path:
    return {"BERT-base": lambda: generated_model("bertbase"), "L3": l3_model, "L6": l6_model}[name]()


# ---- sections: figures as JSON, then text ---------------------------------------------------------------------------


def make_closed_forms() -> Any:
    target = load_target(BOARD)
    found: list[dict[str, Any]] = []
    for name, pattern in FORM_MODELS:
        made = prepared(model_of(name), (1, 128), pattern)
        kinds: dict[tuple[str, int, int], int] = {}
        for form in closed_forms.forms(made, target):
            part = form.layer.split(".", 2)[-1] if form.layer.startswith("layer.") else form.layer
            key = (f"{part}: {form.what}", form.closed, form.simulated)
            kinds[key] = kinds.get(key, 0) + 1
        found += [
            {"model": f"{name}, {pattern}", "layer": what, "count": count, "closed": closed, "simulated": simulated}
            for (what, closed, simulated), count in kinds.items()
        ]
    return found


def closed_forms_text(figures: Any) -> str:
    lines = [prose.CLOSED_FORMS, "| model | layer | of them | closed form | simulated |", "|---|---|---|---|---|"]
    lines += [f"| {f['model']} | {f['layer']} | {f['count']} | {f['closed']:,} | {f['simulated']:,} |" for f in figures]
    return "\n".join(lines)


def make_published() -> Any:
    return [asdict(row) for row in published.rows(model_of("BERT-base"), model_of("L3"))]


def published_text(figures: Any) -> str:
    head = "| design | published | machine of ours (cores x T x O x L) | simulated | why they differ |"
    keys = ("design", "published", "ours", "simulated", "difference")
    rows = ["| " + " | ".join(row[key] for key in keys) + " |" for row in figures]
    return "\n".join([prose.PUBLISHED, head, "|---|---|---|---|---|", *rows])


def make_ablations() -> Any:
    target = load_target(BOARD)
    return {name: ablations.cycles(model_of(name), target) for name in MODELS}


def ablations_text(figures: Any) -> str:
    names: Sequence[str] = list(figures)
    lines = [
        prose.ABLATIONS,
        "| machine or program | " + " | ".join(f"{name} | ratio" for name in names) + " |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    machines: Sequence[str] = list(figures[names[0]])
    for machine in machines:
        cells = [f"{figures[n][machine]:,} | {figures[n][machine] / figures[n][machines[0]]:.2f}" for n in names]
        lines.append(f"| {machine} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", prose.ABLATION_NOTES])


def make_speeds() -> Any:
    models = {name: model_of(name) for name in MODELS}
    made = peers.speeds(models, (BOARD, "fpga-u200", "fpga-zcu104"), ("dense", "hp:0.75", "nm:2:8"))
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    return {"machine": machine, "rows": [asdict(speed) for speed in made]}


def speeds_text(figures: Any) -> str:
    head = "| model | ONNX Runtime, measured | board | pattern | simulated ms | over the CPU | over dense, same board |"
    lines = [prose.SPEEDS.format(machine=figures["machine"], rounds=peers.ROUNDS), head, "|---|---|---|---|---|---|---|"]
    for row in figures["rows"]:
        dense = {board: ms for board, pattern, ms in row["boards"] if pattern == "dense"}
        least, cpu = row["least_ms"], f"{row['least_ms']:.1f} ms ({row['median_ms']:.1f})"
        for board, pattern, ms in row["boards"]:
            ratios = f"{least / ms:.0f}x | {dense[board] / ms:.2f}x"
            lines.append(f"| {row['model']} | {cpu} | {board} | {pattern} | {ms:.3f} | {ratios} |")
    return "\n".join([*lines, "", prose.ASSUMPTIONS])


def make_softmax() -> Any:
    models = {name: model_of(name) for name in ("L3", "L6")}
    return [asdict(accuracy) for accuracy in peers.accuracies(models, tokenizer(), (0, 1, 2, 3, 4, 5), (12, 128))]


def softmax_text(figures: Any) -> str:
    head = "| model | softmax | relative L2 | worst token cosine | cycles, 1 x 128 |"
    lines = [prose.SOFTMAX, head, "|---|---|---|---|---|"]
    for f in figures:
        result = f"{f['relative_l2']:.3f} | {f['token_cosine']:.4f} | {f['cycles']:,}"
        lines.append(f"| {f['model']} | {f['softmax']} | {result} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Section:
    """How its figures are made, how they are told, and the prose that begins with its heading."""

    make: Callable[[], Any]
    text: Callable[[Any], str]
    prose: str


SECTIONS: dict[str, Section] = {
    "closed-forms": Section(make_closed_forms, closed_forms_text, prose.CLOSED_FORMS),
    "ablations": Section(make_ablations, ablations_text, prose.ABLATIONS),
    "published": Section(make_published, published_text, prose.PUBLISHED),
    "speeds": Section(make_speeds, speeds_text, prose.SPEEDS),
    "softmax": Section(make_softmax, softmax_text, prose.SOFTMAX),
}


def page(made: dict[str, Any], before: str) -> str:
    """The page of the sections that were made now; the others as they stand in `before`, or named as missing."""
    stood = sections_of(before)
    parts: dict[str, str] = {}
    for name, section in SECTIONS.items():
        missing = prose.MISSING.format(name=name)
        parts[name] = section.text(made[name]) if name in made else stood.get(heading_of(section.prose), missing)
    return page_of(prose.HEAD, parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description="Makes docs/VALIDATION.md.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to make anew")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="default: docs/VALIDATION.md")
    options = parser.parse_args()
    made: dict[str, Any] = {}
    before = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    try:
        for name in options.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            made[name] = SECTIONS[name].make()
            options.output.write_text(page(made, before), encoding="utf-8")
    except HpccError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
