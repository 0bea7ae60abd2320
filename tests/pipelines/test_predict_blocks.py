"""Tests of the classification of files in blocks."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from selfie_pipeline.config import PatchConfig
from selfie_pipeline.models.preprocessing import Preprocessing
from selfie_pipeline.pipelines.predict import blocks
from selfie_pipeline.pipelines.predict.blocks import Block, classify_in_blocks
from selfie_pipeline.sources import decoding
from selfie_pipeline.sources.image_files import read_windows
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.inference import Inference

MEAN, STD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
PATCH = PatchConfig(canvas_size=8, image_size=8, patch_size=4, targets=2)
PREPROCESSING = Preprocessing(PATCH, MEAN, STD, ["cat", "dog", "owl"])
FILES = 10


class Network(nn.Module):
    """A linear classifier, which a user may stop at the last block, the one of two files."""

    def __init__(self, *, stopped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 8 * 8, 3)
        self.stopped = stopped

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 8, 8)
        if self.stopped and len(images) == 2:
            raise KeyboardInterrupt
        return self.linear(images.flatten(1))  # (B, 3)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_FILES", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(FILES):
        add_image(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "images" / "1.png").write_text("no image")
    return tmp_path / "images"


def add_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def classify(
    folder: Path,
    store: str,
    *,
    stopped: bool = False,
    resume: Literal["auto", "never"] = "auto",
    classifier: str = "a",
) -> Block:
    network = Network(stopped=stopped)
    infer = Inference(network, MEAN, STD, Device("cpu", bf16=False))
    path = folder.parent / store
    state = Checkpoints(path, {"classifier": classifier}, every=1, resume=resume, keep=None)
    names = sorted(path.name for path in folder.iterdir())
    return classify_in_blocks(infer, folder, names, PREPROCESSING, state)


def interrupt(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        classify(folder, "store", stopped=True)


def hide_content(file: Path) -> None:
    """Change a file's content, but neither its size nor its time of modification."""
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def same(one: Block, other: Block) -> bool:
    return (
        one.reasons == other.reasons
        and one.oddities == other.oddities
        and one.top.labels.tobytes() == other.top.labels.tobytes()
        and one.top.probabilities.tobytes() == other.top.probabilities.tobytes()
    )


def test_results_do_not_depend_on_the_blocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks = classify(folder, "store")
    monkeypatch.setattr(blocks, "BLOCK_FILES", 100)

    at_once = classify(folder, "other")

    assert in_blocks.top.labels.shape == (FILES - 1, 2)
    assert in_blocks.reasons == [None, "not an image", *[None] * (FILES - 2)]
    assert in_blocks.reasons == at_once.reasons
    np.testing.assert_array_equal(in_blocks.top.labels, at_once.top.labels)
    np.testing.assert_allclose(in_blocks.top.probabilities, at_once.top.probabilities, rtol=1e-5)


def test_large_files_are_read_in_parallel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = classify(folder, "small")
    barrier = threading.Barrier(2)

    def read(paths: Sequence[Path], patch: PatchConfig) -> Any:
        barrier.wait(timeout=10)
        return read_windows(paths, patch)

    monkeypatch.setattr(decoding.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(blocks, "read_windows", read)
    for number in range(FILES):
        os.truncate(folder / f"{number}.png", 2**20)  # decoders ignore bytes behind the image

    found = classify(folder, "large")

    assert found.reasons == expected.reasons
    np.testing.assert_array_equal(found.top.labels, expected.top.labels)


def test_classified_files_are_not_read_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = classify(folder, "undisturbed")
    interrupt(folder)
    for number in range(8):
        hide_content(folder / f"{number}.png")

    with caplog.at_level("INFO"):
        found = classify(folder, "store")

    assert "predict: resumes after 8 of 10 files" in caplog.text
    assert same(found, expected)


def test_images_of_fewer_than_16_bits_and_several_frames_are_counted(folder: Path) -> None:
    dark, light = (np.full((8, 8), value, np.uint16) for value in (4095, 65535))
    for number in (0, 5, 9):
        Image.fromarray(dark).save(folder / f"{number}.png", "TIFF")
    pages = [Image.fromarray(light)]
    Image.fromarray(light).save(folder / "2.png", "TIFF", save_all=True, append_images=pages)
    interrupt(folder)

    resumed = classify(folder, "store")

    assert resumed.oddities == {"dark": 3, "several frames": 1}
    assert same(resumed, classify(folder, "undisturbed"))


def test_blocks_of_an_earlier_commit_without_these_numbers_are_used(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dumps(note: dict[str, Any]) -> str:
        return json.dumps({key: note[key] for key in ("files", "reasons")})

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "json", SimpleNamespace(dumps=dumps, loads=json.loads))
        expected = classify(folder, "store")

    with caplog.at_level("INFO"):
        found = classify(folder, "store")

    assert "resumes after 10 of 10 files" in caplog.text
    assert same(found, expected)


@pytest.mark.parametrize("change", ["content", "time", "name"])
def test_blocks_of_changed_files_are_classified_again(
    folder: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    interrupt(folder)
    if change == "content":
        add_image(folder / "5.png", seed=99)
        os.utime(folder / "5.png", ns=(0, 0))
    elif change == "time":
        hide_content(folder / "5.png")
        os.utime(folder / "5.png", ns=(0, 0))
    else:
        (folder / "5.png").rename(folder / "55.png")

    with caplog.at_level("INFO"):
        found = classify(folder, "store")

    assert "resumes after 4 of 10 files" in caplog.text
    assert same(found, classify(folder, "undisturbed"))


def test_a_damaged_block_is_classified_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = classify(folder, "undisturbed")
    interrupt(folder)
    (stored,) = folder.parent.glob("store-*/step-000000000.safetensors")
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")

    with caplog.at_level("INFO"):
        found = classify(folder, "store")

    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "step-000000000.safetensors is not used: its checksum" in warning.getMessage()
    assert "resumes after 4 of 10 files" in caplog.text
    assert same(found, expected)


@pytest.mark.parametrize("other", [{"classifier": "b"}, {"resume": "never"}])
def test_blocks_of_another_classifier_and_unwanted_ones_are_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture, other: dict[str, str]
) -> None:
    interrupt(folder)
    for number in range(8):
        hide_content(folder / f"{number}.png")

    with caplog.at_level("INFO"):
        found = classify(folder, "store", **other)

    assert "resumes after" not in caplog.text
    assert found.reasons == ["not an image"] * 8 + [None] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Pillow's
def test_a_file_that_the_system_refused_is_read_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("needs a file that can be opened and not read")
    (folder / "0.png").unlink()
    (folder / "0.png").symlink_to(memory)
    first = classify(folder, "store")

    with caplog.at_level("INFO"):
        again = classify(folder, "store")

    assert (first.reasons[0] or "").startswith("can't be read: ")
    assert "resumes after 6 of 10 files" in caplog.text
    assert same(again, first)


def test_a_file_whose_decoder_was_missing_is_read_after_its_installation(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pillow_heif")
    Image.new("RGB", (8, 8)).save(folder / "0.png", format="HEIF")
    formats = [name for name in decoding._FORMATS if name != "HEIF"]
    reason = "is HEIC; to read it: install the extra"
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(decoding, "_FORMATS", formats)
        patch.setitem(decoding._REMEDIES, b"heic", reason)
        assert classify(folder, "store").reasons[0] == reason
        assert classify(folder, "store").reasons[0] == reason
    assert "resumes after 10 of 10 files" in caplog.text  # it is missing still

    with caplog.at_level("INFO"):
        again = classify(folder, "store")

    assert again.reasons[0] is None
    assert "resumes after 6 of 10 files" in caplog.text
