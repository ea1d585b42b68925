"""Every metric of hpcc-explore from files to a choice, and explore.html as a browser shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.interpreters.evaluate import evaluate
from compiler.tools.exploring.options import ExploreOptions
from compiler.tools.exploring.run import Explored, explore
from compiler.tools.variants import prepare
from hw_targets.errors import InputError
from tests.browser import find_browser, rendered
from tests.graphs import feeds, write
from tests.small_task import SPEC, TOKENS, SmallTask, small_task

pytestmark = pytest.mark.slow
DEVICE, LIMIT = "fpga-kv260", -1e9


def search(task: SmallTask, output: Path, **changes: Any) -> Explored:
    asked: dict[str, Any] = {
        "output": str(output),
        "targets": (DEVICE,),
        "patterns": ("nm:1:4",),
        "shapes": {"input_ids": (1, TOKENS)},
        "method": "magnitude",
        "quiet": True,
    }
    return explore(ExploreOptions(str(task.model), str(task.task), 10.0, LIMIT, **asked | changes))


def scores(explored: Explored) -> dict[str, float]:
    return {t.pattern: t.accuracy.value for t in explored.exploration.trials if t.accuracy is not None}


def with_pairs(task: SmallTask) -> None:
    """Splits of pairs whose figures are the cosines of the dense model's rows, ranks kept and distances bent."""
    prepared = prepare(task.model, {"input_ids": (16, TOKENS)}, "dense")
    random = np.random.default_rng(3)
    for number, name in enumerate(("train", "dev", "test")):
        arrays = feeds(SPEC, 16, TOKENS, seed=number + 1)
        tokens = next(iter(evaluate(prepared.module, prepared.store, arrays).values()))
        mask = arrays["attention_mask"][..., None]
        rows = (tokens * mask).sum(1) / mask.sum(1)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = np.array([(a, b) for a in range(16) for b in range(a)])[random.permutation(120)[:60]]
        figures = np.exp(9 * (rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(1))
        np.savez(task.folder / f"{name}.npz", **arrays, pairs=pairs, labels=figures)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("metric", ["f1", "agreement", "cosine", "pearson", "spearman"])
def test_the_dense_model_is_best_and_pruning_costs(metric: str, tmp_path: Path) -> None:
    paired = metric in ("pearson", "spearman")
    task = small_task(tmp_path, metric=metric, head="" if paired or metric == "cosine" else "file")
    if paired:
        with_pairs(task)
    found = scores(search(task, tmp_path / "out"))
    assert found["dense"] > found["nm:1:4"]
    assert found["dense"] > (0.9 if metric != "pearson" else 0.5)
    if metric == "spearman":
        assert found["dense"] > 0.98, "ranks do not mind a bent scale"


def test_a_decoder_is_scored_by_its_perplexity(tmp_path: Path) -> None:
    """Its results are taken as scores of as many words as it has features. Labels are not needed; what is printed is minus
    the perplexity, so that larger is better."""
    words = replace(SPEC, vocabulary=SPEC.hidden)
    task = small_task(tmp_path, metric="perplexity", labels=False, head="")
    write(words, task.model, 16, TOKENS, symbolic=True)
    for number, name in enumerate(("train", "dev", "test")):
        np.savez(tmp_path / f"{name}.npz", **feeds(words, 32, TOKENS, seed=number))  # pyright: ignore[reportArgumentType]
    text = task.task.read_text(encoding="utf-8").replace('pool = "mean"\n', "")
    task.task.write_text(text, encoding="utf-8")
    explored = search(task, tmp_path / "out", patterns=("nm:2:4",))
    found = scores(explored)
    assert found["dense"] < -1
    zeroed = explored.exploration.zeroed.value
    assert zeroed < -1
    assert len({found["dense"], found["nm:2:4"], zeroed}) == 3


def test_an_entry_point_scores_each_sample_and_its_faults_are_one_line(tmp_path: Path) -> None:
    task = small_task(tmp_path, metric="mine.py:score", head="")
    mine = tmp_path / "mine.py"
    body = "import numpy as np\ndef score(outputs, inputs, labels):\n    first = next(iter(outputs.values()))\n"
    mine.write_text(body + "    return -np.abs(first).mean(axis=(1, 2))\n", encoding="utf-8")
    found = scores(search(task, tmp_path / "out"))
    assert found["dense"] < 0
    assert found["dense"] != found["nm:1:4"]
    mine.write_text(body + "    return first\n", encoding="utf-8")
    with pytest.raises(InputError, match="not a finite figure for each") as error:
        search(task, tmp_path / "other")
    assert error.value.code == "HPCC1579"


@pytest.mark.skipif(find_browser() is None, reason="needs a Chromium")
@pytest.mark.parametrize("limit", [LIMIT, 2.0])
def test_the_page_reads_at_every_width(limit: float, tmp_path: Path) -> None:
    browser = find_browser()
    assert browser is not None
    task = small_task(tmp_path)
    explored = search(task, tmp_path / "out", targets=("fpga-*",), patterns=("nm",))
    if limit > 1:
        options = ExploreOptions(str(task.model), str(task.task), 10.0, limit, output=str(tmp_path / "out"), quiet=True)
        with_limit = {"targets": (DEVICE,), "patterns": ("nm",), "shapes": {"input_ids": (1, TOKENS)}}
        explored = explore(ExploreOptions(**{**vars(options), **with_limit, "method": "magnitude"}))
        assert not explored.found
    page = (explored.folder / "explore.html").read_text(encoding="utf-8")
    for width, seen in rendered(browser, page, (360, 800, 1400), tmp_path).items():
        assert seen["errors"] == [], width
        assert seen["overflow"] <= 0, width
        assert seen["overlaps"] == [], width
        assert seen["wide"] == [], width
        names = [section["name"] for section in seen["sections"]]
        assert names == ["front", "devices", "trials", *([] if limit > 1 else ["rebuild"]), "method"]
