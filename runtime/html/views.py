"""What pages of all kinds share: how layers are grouped and coloured, and the chapters that say the same for each target.

The documents are report.json and run.json as read: `Any` where the forms, which live with the compiler, would be typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from runtime.figures import error_text, share_text, size_text
from runtime.html.parts import Column, Group, Items, Pairs, Part, Row, Section, Statement, Statements, Table, Text

Document = Mapping[str, Any]

BLOCK = re.compile(r"(?P<block>.*?\d+)\.(?P<rest>.+)")
FAMILIES = (
    ("projections", re.compile(r"attn\.(q|k|v|qkv)$"), "q, k, v"),
    ("attention", re.compile(r"attn$"), "attention"),
    ("output", re.compile(r"attn\.o$"), "attention output"),
    ("feedforward", re.compile(r"ffn\b"), "feed-forward"),
)
OTHER = ("other", "everything else")


def block_of(layer: str) -> str:
    """The block of a layer's name: `layer.3` of `layer.3.ffn.up`; layers outside of blocks are one of their own."""
    match = BLOCK.fullmatch(layer)
    return match["block"] if match else layer


def blocks(layers: Sequence[Document]) -> dict[str, list[Document]]:
    """Layers by block, blocks in the order in which they begin."""
    found: dict[str, list[Document]] = {}
    for layer in layers:
        found.setdefault(block_of(layer["name"]), []).append(layer)
    return found


def family_of(layer: str) -> str:
    """The name of the colour that a layer has in drawings."""
    for name, pattern, _ in FAMILIES:
        if pattern.search(layer):
            return name
    return OTHER[0]


def legend() -> list[tuple[str, str]]:
    return [*((name, words) for name, _, words in FAMILIES), OTHER]


def short_name(layer: str) -> str:
    """A layer's name inside its block."""
    match = BLOCK.fullmatch(layer)
    return match["rest"] if match else layer


def pattern_text(spec: str) -> str:
    """A pattern's full form with places where a line may break."""
    return spec.replace(",", ", ")


def pattern_labels(layers: Sequence[Document]) -> dict[str, str]:
    """What a table says for each pattern: its name, where that is enough to tell it from the others, else its full form."""
    specs = {layer["pattern"] for layer in layers}
    names = [spec.partition(":")[0] for spec in specs]
    short = {spec: spec.partition(":")[0] for spec in specs if names.count(spec.partition(":")[0]) == 1}
    return {spec: short.get(spec, pattern_text(spec)) for spec in specs}


# ---- chapters -------------------------------------------------------------------------------------------------------


def checks(report: Document, run: Document) -> Section:
    """Verification and damage: two statements, since neither says anything about the other."""
    return Section(
        "checks",
        "Is it right, and is it good?",
        "Two questions with two answers. A compiler that is right can compile a model that is no longer good.",
        [Statements([_verification(run.get("verify")), _damage(report, run.get("damage"))]), *_outputs(run.get("verify"))],
    )


def _verification(verify: Document | None) -> Statement:
    title = "Verification: is the compiler right?"
    limits = "Says nothing about the model: a badly pruned one verifies just as well."
    if verify is None:
        return Statement(title, "not run", "quiet", ["Nothing was executed, or the comparison was switched off."], limits)
    outputs = verify["outputs"]
    exact = verify["bit_exact"]
    wrong = exact is False or not all(entry["passed"] for entry in outputs)
    lines: list[str] = []
    if exact is not None:
        lines.append(f"The simulated integers are {'equal bit for bit to' if exact else 'DIFFERENT from'} the reference's.")
    if verify.get("graph_error") is not None:
        lines.append(f"The fp32 graph is within {verify['graph_error']:.1e} of its rms of ONNX Runtime.")
    if outputs:
        passed = sum(entry["passed"] for entry in outputs)
        worst = max(entry["relative_l2"] for entry in outputs)
        cosine = min(entry["min_token_cosine"] for entry in outputs)
        samples = f"{verify['samples']} sample{'s' if verify['samples'] != 1 else ''}"
        lines.append(
            f"{passed} of {len(outputs)} outputs within limits against {verify['reference']}: relative L2 at most"
            f" {error_text(worst)}, worst token cosine {cosine:.4f}, {samples}."
        )
    return Statement(title, "FAILED" if wrong else "ok", "bad" if wrong else "good", lines, limits)


def _damage(report: Document, damage: Document | None) -> Statement:
    title = "Damage: is the model still good?"
    made_up = report["inputs"]["kind"] == "made up"
    limits = (
        "The inputs were made up: this says nothing about accuracy."
        if made_up
        else "Measured on the inputs given; a task's own metric on its own test set decides."
    )
    if damage is None:
        pruned = bool(report["pruning"]["scope"])
        why = "Not measured." if pruned else "No weight was changed, so there is none to measure."
        return Statement(title, "not measured" if pruned else "none", "quiet", [why], limits if pruned else "")
    lines = [f"Mean sample cosine {damage['mean_sample_cosine']:.3f} to {damage['reference']}."]
    if damage["top1_agreement"] is not None:
        lines.append(f"The largest output is the same one for {damage['top1_agreement']:.1%} of the samples.")
    if report["pruning"]["method"] == "magnitude":
        lines.append("Weights were pruned by magnitude in one shot, without training: expect this to be large.")
    return Statement(title, f"cosine {damage['mean_sample_cosine']:.3f}", "warn", lines, limits)


def _outputs(verify: Document | None) -> list[Part]:
    if verify is None or not verify["outputs"]:
        return []
    columns = [
        Column("output", mono=True, wrap=True),
        *(Column(t, right=True) for t in ("relative L2", "worst token cosine", "mean token cosine", "largest error")),
        Column("verdict"),
    ]
    rows = [
        Row(
            [
                entry["name"],
                error_text(entry["relative_l2"]),
                f"{entry['min_token_cosine']:.4f}",
                f"{entry['mean_token_cosine']:.4f}",
                f"{entry['max_abs_error']:.3g}",
                "ok" if entry["passed"] else "FAILED",
            ],
            tone="" if entry["passed"] else "bad",
        )
        for entry in verify["outputs"]
    ]
    return [Table(f"Outputs against {verify['reference']}", columns, [Group(rows)], tall=len(rows) > 12)]


def host(report: Document, run: Document) -> Section:
    """What ran on the host, why, and what that cost."""
    ops = report["host_ops"]
    if not ops:
        return Section("host", "On the host", "Nothing: every node of the model runs on the target.")
    share = sum(op["macs_share"] for op in ops)
    columns = [
        Column("ONNX node", mono=True, wrap=True),
        Column("op"),
        Column("why", wrap=True),
        Column("share of MACs", right=True),
    ]
    rows = [
        Row([op["onnx_node"], op["op"], op["reason"], share_text(op["macs_share"])])
        for op in sorted(ops, key=lambda op: -op["macs_share"])
    ]
    parts: list[Part] = [Table("Nodes on the host", columns, [Group(rows)], tall=len(rows) > 12)]
    if run["host_ops"]:
        segments = [Row([entry["file"], str(len(entry["nodes"])), f"{entry['ms']:.3f}"]) for entry in run["host_ops"]]
        head = [Column("segment", mono=True), Column("nodes", right=True), Column("ms, measured", right=True)]
        parts.append(Table("Time of each segment", head, [Group(segments)]))
    lead = (
        f"{len(ops)} node{'s' if len(ops) != 1 else ''} with {share_text(share)} of the multiplications run through"
        " ONNX Runtime on the host; their time is added to the latency, never hidden."
    )
    return Section("host", "On the host", lead, parts)


def sources(numbers: Sequence[tuple[str, str, str]], target: str, explained: Sequence[str] = ()) -> Section:
    """Every number of the target with where it is from: (name, value, source)."""
    unknown = [name for name, _, source in numbers if source == "unverified"]
    lead = f"{len(numbers)} numbers describe {target}."
    if unknown:
        lead += f" No source backs {len(unknown)} of them, and figures are as good as these: {', '.join(unknown)}."
    columns = [Column("number", mono=True, wrap=True), Column("value", right=True), Column("source", wrap=True)]
    rows = [Row([name, value, source], tone="warn" if source == "unverified" else "") for name, value, source in numbers]
    parts: list[Part] = []
    if explained:
        parts.append(Items(explained))
    parts.append(Table("Numbers of the target and their sources", columns, [Group(rows)], tall=True))
    return Section("target", "The target", lead, parts)


def pruning(report: Document) -> list[tuple[str, str]]:
    """What was pruned, in words."""
    part = report["pruning"]
    rows = [("pattern", part["words"]), ("full form", pattern_text(part["pattern"]))]
    if part["scope"]:
        rows += [
            ("pruned", f"{len(part['scope'])} matrices, {part['method'] if part['method'] != 'none' else 'as they came'}"),
            ("zeros", f"{part['achieved']:.1%} of the pruned matrices (asked for: {part['asked']:.1%})"),
            ("of the encoder", f"{part['encoder']:.1%}"),
            ("of the file", f"{part['file']:.1%}"),
        ]
    return rows


def making(report: Document, run: Document, extra: Sequence[tuple[str, str]] = ()) -> Section:
    """How this was made: inputs, machine, seconds, what is left out."""
    inputs = report["inputs"]
    words: dict[str, str] = {
        "made up": "made up from names and types; they say nothing about accuracy",
        "text": f"{inputs['count']} texts of {inputs['source']}",
        "npz": f"{inputs['count']} samples of {inputs['source']}",
        "arrays": f"{inputs['count']} samples given as arrays",
    }
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in run["compile_seconds"].items())
    machine = run["machine"]
    rows: list[tuple[str, str]] = [
        ("model", f"{report['model']['parameters']:,} parameters, {report['model']['macs']:,} multiplications"),
        ("sha256", report["model"]["sha256"]),
        ("inputs", words.get(inputs["kind"], str(inputs["kind"]))),
        ("compiled in", stages or "unknown"),
        *extra,
        ("peak memory", f"{run['peak_rss_mb']:,.0f} MB"),
        ("machine", f"{machine.get('system', '')} {machine.get('processor', '')}, {machine.get('cores', '?')} cores"),
        ("made by", f"hpcc {report['hpcc_version']}, {run['date']}"),
    ]
    parts: list[Part] = [Pairs(rows)]
    if report["model"].get("notes"):
        parts.append(Items(report["model"]["notes"]))
    missing = report.get("not_modelled", ())
    if missing:
        parts += [Text(["What the simulator does not model:"]), Items(missing)]
    return Section("making", "How this was made", "What the figures above rest on.", parts)


def reasons(layers: Sequence[Document], weight: str, unit: str) -> Table:
    """How often each reason was given, and what share of the run it stands for; `weight` is the key that is summed."""
    total = sum(layer[weight] for layer in layers) or 1
    ordered = sorted(layers, key=lambda layer: layer["reason"])
    rows: list[tuple[float, Row]] = []
    for reason, group in groupby(ordered, key=lambda layer: layer["reason"]):
        found = list(group)
        part = sum(layer[weight] for layer in found) / total
        rows.append((part, Row([reason, str(len(found)), share_text(part), found[0]["explanation"]])))
    columns = [
        Column("reason"),
        Column("layers", right=True),
        Column(f"share of {unit}", right=True),
        Column("which means", wrap=True),
    ]
    return Table("Reasons", columns, [Group([row for _, row in sorted(rows, key=lambda item: -item[0])])])


def sums(layers: Sequence[Document], *keys: str) -> Iterator[int]:
    """The sum of each key over the layers."""
    for key in keys:
        yield sum(layer[key] or 0 for layer in layers)


def size_or_nothing(count: int) -> str:
    return size_text(count) if count else ""
