"""explore.html: the answer of a search of devices as pieces of a page, from explore.json alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.figures import size_text
from runtime.html.charts import Dot, scatter
from runtime.html.page import html
from runtime.html.parts import Column, Fact, Facts, Group, Items, Page, Part, Row, Section, Table, Text

Document = dict[str, Any]

FIDELITIES = {
    "dev": "measured on the dev set",
    "trained": "measured on the dev set, trained",
    "subset": "ruled out on a subset",
    "estimate": "ruled out by the estimate",
    "none": "not looked at",
}


def explore_page(answer: Document) -> str:
    """The text of explore.html."""
    limits = answer["limits"]
    asked = f"at most {limits['max_latency_ms']:g} ms, {answer['task']['metric']} at least {limits['min_accuracy']:g}"
    winner = answer["winner"]
    if not answer["complete"]:
        title, verdict = "Interrupted", "What was found until then; nothing is chosen yet. The same command goes on."
    elif winner is None:
        title, verdict = "No device meets both limits", _relaxed(answer)
    else:
        trial = winner["trial"]
        title = f"{_name(trial['device'])}, {trial['pattern']}"
        verdict = f"Meets {asked}: {answer['objective']} of {answer['counts']['timed']} candidates."
    page = Page(
        title,
        f"{answer['model']['name']}, {answer['task']['name']}, {asked}",
        verdict,
        Facts(_facts(answer)),
        [_front(answer), _devices(answer), _trials(answer), *_rebuild(answer), _method(answer)],
        f"hpcc {answer['hpcc_version']}",
    )
    return html(page)


def _name(device: str) -> str:
    """A user's own target file by its name alone."""
    return device.rsplit("/", 1)[-1]


def _facts(answer: Document) -> list[Fact]:
    winner = answer["winner"]
    if not answer["complete"]:
        return [
            Fact("candidates timed", str(answer["counts"]["timed"])),
            Fact("prunings on dev", str(answer["counts"]["dev"])),
        ]
    if winner is None:
        relaxed = answer["relaxation"]
        latency, accuracy = relaxed["latency_ms"], relaxed["accuracy"]
        return [
            Fact("latency limit that would do", "none" if latency is None else f"{latency:.3f}", "ms"),
            Fact("accuracy limit that would do", "none" if accuracy is None else f"{accuracy:.4f}"),
        ]
    trial, test = winner["trial"], winner["test"]
    score = trial["accuracy"]
    note = f"{winner['latency_margin_ms']:.3f} ms below the limit"
    return [
        Fact("latency", f"{trial['latency_ms']:.3f}", "ms", trial["latency_is"], note),
        Fact("on dev", f"{score['value']:.4f}", "", "measured", f"lower bound {score['low']:.4f}"),
        Fact("on test, once", f"{test['value']:.4f}", "", "measured", f"lower bound {test['low']:.4f}"),
        Fact("cost class", f"{trial['cost']:g}"),
        Fact("constants", size_text(trial["bytes"])),
    ]


def _relaxed(answer: Document) -> str:
    relaxed = answer["relaxation"]
    words: list[str] = []
    if relaxed["latency_ms"] is not None:
        words.append(f"{relaxed['latency_ms']:.3f} ms at the same accuracy")
    if relaxed["accuracy"] is not None:
        words.append(f"a lower bound of {relaxed['accuracy']:.4f} at the same latency")
    if not words:
        return "No change of one limit alone would let a device in."
    return f"The least change that would let one in: {', or '.join(words)}."


def _front(answer: Document) -> Section:
    shown = [t for t in answer["trials"] if t["latency_ms"] is not None and t["accuracy"] is not None]
    winner = answer["winner"]
    own = winner and (winner["trial"]["device"], winner["trial"]["pattern"])
    dots = [
        Dot(
            t["latency_ms"],
            t["accuracy"]["value"],
            f"{_name(t['device'])} {t['pattern']}: {t['latency_ms']:.3f} ms {t['latency_is']}, {t['accuracy']['value']:.4f}",
            _tone(t),
            (t["device"], t["pattern"]) == own,
        )
        for t in sorted(shown, key=lambda t: t["on_front"])
    ]
    parts: list[Part] = []
    if dots:
        front = _steps([(t["latency_ms"], t["accuracy"]["value"]) for t in answer["front"]])
        limits = (answer["limits"]["max_latency_ms"], answer["limits"]["min_accuracy"])
        legend = [("accelerator", "on the front"), ("dense", "others"), ("vector", "a control, never chosen")]
        words = (
            "The front counts cost class and bytes too; its line joins those that no other beats in latency and accuracy."
        )
        parts.append(
            scatter(
                "Latency and accuracy",
                words,
                ("milliseconds", f"{answer['task']['metric']} on dev"),
                dots,
                limits,
                front,
                legend,
            )
        )
    parts.append(_table("The front", answer["front"], tall=False))
    return Section("front", "Front", "What no other candidate beats in latency, accuracy, cost class and bytes.", parts)


def _tone(trial: Document) -> str:
    if trial["control"]:
        return "vector"
    return "accelerator" if trial["on_front"] else "dense"


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points that are better than all faster ones."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


COLUMNS = (
    Column("device"),
    Column("pattern", mono=True, wrap=True),
    Column("cost", right=True),
    Column("ms", right=True),
    Column("time is"),
    Column("constants", right=True),
    Column("accuracy", right=True),
    Column("lower bound", right=True),
    Column("limits"),
    Column("accuracy is", wrap=True),
)


def _table(title: str, trials: Sequence[Document], *, tall: bool) -> Table:
    return Table(title, COLUMNS, [Group([_row(trial) for trial in trials])], tall=tall)


def _row(trial: Document) -> Row:
    score = trial["accuracy"]
    met = [name for name in ("latency", "accuracy") if trial[f"meets_{name}"]]
    return Row(
        [
            _name(trial["device"]),
            trial["pattern"],
            f"{trial['cost']:g}",
            "-" if trial["latency_ms"] is None else f"{trial['latency_ms']:.3f}",
            "-" if trial["latency_ms"] is None else trial["latency_is"],
            "-" if trial["bytes"] is None else size_text(trial["bytes"]),
            "-" if score is None else f"{score['value']:.4f}",
            "-" if score is None else f"{score['low']:.4f}",
            "meets both" if len(met) == 2 else f"meets {met[0]}" if met else "meets none",
            trial["problem"] or FIDELITIES[trial["fidelity"]],
        ],
        tone="main" if trial["on_front"] else "",
    )


def _devices(answer: Document) -> Section:
    columns = (Column("device"), Column("why not", wrap=True), Column("nearest", mono=True, wrap=True))
    rows = [Row([_name(entry["device"]), _why(entry), entry["nearest"]]) for entry in answer["rejected"]]
    lead = "Why each other device was not chosen, by its nearest candidate."
    return Section("devices", "Devices", lead, [Table("Other devices", columns, [Group(rows)])])


def _why(entry: Document) -> str:
    if entry["failed"] == "objective":
        return "meets both limits; another is better by the objective"
    if entry["by"] is None:
        return f"{entry['failed']}: {entry['reason']}"
    if entry["failed"] == "latency":
        return f"latency: {entry['needs']:.3f} ms, {entry['by']:.3f} ms too slow"
    return f"accuracy: lower bound {entry['needs']:.4f}, {entry['by']:.4f} too low"


def _trials(answer: Document) -> Section:
    lead = "Everything that was tried. Type a device, a pattern or `meets both` to see only those rows."
    return Section("trials", "Trials", lead, [_table("Candidates", answer["trials"], tall=True)])


def _rebuild(answer: Document) -> list[Section]:
    winner = answer["winner"]
    if winner is None:
        return []
    note = f"They make the bundle with the digest {winner['digest']}. The bundle is ready to run: {winner['bundle']}"
    return [
        Section("rebuild", "Rebuild", "The commands that make the winner again.", [Items(winner["commands"]), Text([note])])
    ]


def _training(answer: Document) -> list[str]:
    course = answer["training"]
    if course is None:
        return []
    return [
        f"{answer['counts']['trained']} prunings were trained, {course['steps']} steps of {course['batch']} samples for each"
        f" rung of a ladder, peak rate {course['rate']:g}, loss {course['loss']}, seed {course['seed']}; a rung inherits the"
        " weights of the one before."
    ]


def _method(answer: Document) -> Section:
    task, space, counts, zeroed = answer["task"], answer["space"], answer["counts"], answer["zeroed"]
    how = "each was tried" if space["exhaustive"] else f"{space['budget']} of them were sampled ({space['sampler']})"
    lines = [
        f"{space['candidates']} candidates of {len(space['devices'])} devices and {len(space['patterns'])} prunings; {how},"
        f" seed {space['seed']}. {counts['timed']} were timed; of the prunings {counts['dev']} went through the dev set,"
        f" {counts['subset']} were ruled out on a subset, {counts['estimate']} by the sensitivity estimate,"
        f" {counts['failed']} failed.",
        f"Accuracy is that of the integers which the accelerators compute, or of the fp32 of CPUs, on {task['dev']} dev"
        f" samples; pruning is {answer['method']} in one shot. Bounds are one-sided with {task['confidence']:.0%} confidence"
        f" for all {task['comparisons']} prunings at once; the lower one must meet the limit. The {task['test']} test"
        " samples were read once, for the winner.",
        f"An encoder of zeros scores {zeroed['value']:.4f}; what is not above it is never chosen.",
        "Latency is accelerator (simulated) plus transfer (estimated) plus host (measured on the machine of the search); of"
        " a CPU it is measured: the median of runs in a process of its own on that machine.",
        *_training(answer),
    ]
    parts: list[Part] = [Text(lines)]
    if answer["problems"]:
        parts.append(Items(answer["problems"]))
    return Section("method", "Method", "How these figures were made.", parts)
