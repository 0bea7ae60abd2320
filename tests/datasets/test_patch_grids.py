"""Tests of the patch-grid store: writing, reading, sharing pixels, resuming, damage."""

import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kedro.io import DataCatalog
from kedro.io.core import DatasetError, Version

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets import patch_grid_shards, patch_grids
from selfie_pipeline.datasets.atomic import CatalogError
from selfie_pipeline.datasets.patch_grid_shards import PendingPatchGrids
from selfie_pipeline.datasets.patch_grids import PatchGridDataset, PatchGrids
from selfie_pipeline.models.patch_grid import patchify

SAMPLES, GRID, SIDE = 23, (2, 3), 4
PIXELS = np.random.default_rng(0).integers(0, 256, (SAMPLES, 6, 3, SIDE, SIDE), dtype=np.uint8)
TRAINING = np.arange(SAMPLES) % 3 > 0
ROW_BYTES = PIXELS[0].nbytes


@pytest.fixture(autouse=True)
def five_rows_per_shard(monkeypatch):
    monkeypatch.setattr(patch_grid_shards, "SHARD_BYTES", 5 * ROW_BYTES + 1)


def chunks_of(*lengths, pixels=PIXELS):
    """Return a function that yields the pixels from a sample on, in chunks of these lengths."""

    def chunks(start):
        for chunk in np.split(pixels[start:], list(itertools.accumulate(lengths))):
            yield chunk, {}

    return chunks


def pending(fingerprint="f1", chunks=None, statistics_rows=TRAINING):
    return PendingPatchGrids(
        fingerprint=fingerprint,
        samples=SAMPLES,
        grid=GRID,
        patch_size=SIDE,
        chunks=chunks or chunks_of(1, 7, 2, 11),
        statistics_rows=statistics_rows,
    )


def never_called(start):
    raise AssertionError("the pixels are stored already")


def dataset(folder, save=None, load=None):
    return PatchGridDataset(filepath=str(folder / "grids"), version=Version(load, save))


@pytest.fixture
def grids(tmp_path):
    dataset(tmp_path, save="v1").save(pending())
    return dataset(tmp_path).load()


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


SHARDS = [f"shard-{index:05d}.npy" for index in range(5)]


def test_a_version_is_a_folder_of_shards_and_a_manifest(grids, tmp_path):
    folder = tmp_path / "grids/v1/grids"

    assert files_of(tmp_path) == [f"grids/v1/grids/{name}" for name in ["manifest.json", *SHARDS]]
    shards = [np.load(folder / name, allow_pickle=False) for name in SHARDS]
    assert [len(shard) for shard in shards] == [5, 5, 5, 5, 3]
    assert np.array_equal(np.concatenate(shards), PIXELS)


def test_loaded_grids_have_their_attributes(grids):
    assert len(grids) == SAMPLES
    assert grids.shape == PIXELS.shape
    assert grids.grid == GRID
    assert grids.fingerprint == "f1"


def test_entire_images_are_put_together_from_their_patches(grids):
    rows = np.array([22, 0, 7, 7])

    canvases = grids.read_canvases(rows)

    assert canvases.shape == (4, GRID[0] * SIDE, GRID[1] * SIDE, 3)
    patches = patchify(torch.from_numpy(canvases).permute(0, 3, 1, 2), SIDE)
    assert np.array_equal(patches, PIXELS[rows])
    assert grids.read_canvases(rows[:0]).shape == (0, GRID[0] * SIDE, GRID[1] * SIDE, 3)


def test_statistics_are_computed_over_the_statistics_rows(grids):
    training = PIXELS[TRAINING] / 255

    assert grids.mean.dtype == grids.std.dtype == np.float32
    np.testing.assert_allclose(grids.mean, training.mean(axis=(0, 1, 3, 4)), rtol=1e-6)
    np.testing.assert_allclose(grids.std, training.std(axis=(0, 1, 3, 4)), rtol=1e-6)
    assert not np.allclose(grids.mean, (PIXELS / 255).mean(axis=(0, 1, 3, 4)), rtol=1e-6)


def test_statistics_do_not_depend_on_the_chunks(tmp_path):
    manifests = []
    for version, lengths in (("v1", (5, 5)), ("v2", range(1, 6))):
        dataset(tmp_path, save=version).save(
            pending(fingerprint=version, chunks=chunks_of(*lengths))
        )
        manifest = json.loads((tmp_path / f"grids/{version}/grids/manifest.json").read_text())
        manifests.append((manifest["mean"], manifest["std"]))

    assert manifests[0] == manifests[1]


def test_statistics_of_nearly_equal_values_are_exact(tmp_path):
    pixels = np.full_like(PIXELS, 255)
    pixels[0, 0, :, 0, 0] = 254
    everything = np.ones(SAMPLES, dtype=bool)

    dataset(tmp_path, save="v1").save(
        pending(chunks=chunks_of(3, pixels=pixels), statistics_rows=everything)
    )

    share = 1 / (PIXELS.size / 3)
    assert (
        dataset(tmp_path).load().std.tolist()
        == [np.float32(np.sqrt(share * (1 - share)) / 255)] * 3
    )


def test_pixels_that_are_all_equal_are_refused(tmp_path):
    pixels = PIXELS.copy()
    pixels[:, :, 2] = 7
    with pytest.raises(
        CatalogError, match=r"all pixels of a channel are equal; check data\.folder$"
    ):
        dataset(tmp_path, save="v1").save(pending(chunks=chunks_of(3, pixels=pixels)))
    assert files_of(tmp_path) == []


def test_a_changed_manifest_is_named_and_not_shared(grids, tmp_path):
    path = tmp_path / "grids/v1/grids/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mean": [0.5, 0.5, 0.5]}))

    with pytest.raises(CatalogError, match="content is not what was written"):
        dataset(tmp_path).load()

    dataset(tmp_path, save="v2").save(pending())
    assert np.array_equal(dataset(tmp_path).load().mean, grids.mean)


def test_a_manifest_without_a_checksum_is_read(grids, tmp_path):
    """Earlier releases did not save one."""
    path = tmp_path / "grids/v1/grids/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["crc32"]
    path.write_text(json.dumps(manifest))

    assert np.array_equal(dataset(tmp_path).load().mean, grids.mean)


@pytest.mark.parametrize("std", [[-0.1, 0.2, 0.2], [0.0, 0.2, 0.2], [0.2], [float("nan")] * 3])
def test_impossible_statistics_are_named(tmp_path, std):
    dataset(tmp_path, save="v1").save(pending())
    path = tmp_path / "grids/v1/grids/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"std": std, "crc32": None}))

    with pytest.raises(CatalogError, match=r"manifest\.json can't be read \(.*std = \["):
        dataset(tmp_path).load()


def test_a_flipped_bit_is_named_and_not_shared(tmp_path):
    dataset(tmp_path, save="v1").save(pending())
    shard = tmp_path / "grids/v1/grids/shard-00001.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)

    with pytest.raises(CatalogError, match=r"shard-00001\.npy is damaged: .* delete the folder"):
        dataset(tmp_path).load()
    dataset(tmp_path, save="v2").save(pending())
    assert np.array_equal(dataset(tmp_path).load().gather(np.arange(SAMPLES)), PIXELS)


@pytest.mark.parametrize("side", [7, 32, 300])
def test_statistics_are_exact_for_any_patch_size(tmp_path, side):
    pixels = np.random.default_rng(1).integers(250, 256, (2, 6, 3, side, side), dtype=np.uint8)
    grids = PendingPatchGrids(
        fingerprint="f1",
        samples=2,
        grid=GRID,
        patch_size=side,
        chunks=chunks_of(1, pixels=pixels),
        statistics_rows=np.ones(2, dtype=bool),
    )

    dataset(tmp_path, save="v1").save(grids)

    manifest = json.loads((tmp_path / "grids/v1/grids/manifest.json").read_text())
    values = pixels.transpose(2, 0, 1, 3, 4).reshape(3, -1).astype(int)
    assert manifest["mean"] == [int(each.sum()) / (255 * each.size) for each in values]


@pytest.mark.parametrize(
    "rows",
    [
        [0],
        [22, 0, 5, 4, 4, 10, 9, 22],
        list(range(SAMPLES)),
        list(range(SAMPLES))[::-1],
        np.random.default_rng(1).integers(0, SAMPLES, 200).tolist(),
        [20, 21],
        [],
    ],
    ids=["one", "borders and repeats", "all", "backwards", "many", "last shard", "none"],
)
def test_rows_are_gathered_in_the_requested_order(grids, rows):
    rows = np.array(rows, dtype=np.int64)

    gathered = grids.gather(rows)

    assert gathered.dtype == torch.uint8
    assert gathered.shape == (len(rows), *PIXELS.shape[1:])
    assert np.array_equal(gathered.numpy(), PIXELS[rows])


def test_gathered_patches_are_a_copy(grids):
    grids.gather(np.array([3])).zero_()

    assert np.array_equal(grids.gather(np.array([3]))[0].numpy(), PIXELS[3])


@pytest.mark.parametrize("row", [-1, SAMPLES])
def test_a_row_out_of_range_is_refused(grids, row):
    with pytest.raises(CatalogError, match=f"sample {row} does not exist: .*grids has 23 samples"):
        grids.gather(np.array([0, row, 1]))


def test_opening_maps_and_does_not_read(grids):
    assert all(isinstance(shard.base, np.memmap) for shard in grids._shards)


def mapped_bytes(path):
    """Return the resident bytes of a mapped file (Linux)."""
    mappings = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(re.search(r"Rss: +(\d+) kB", mapping)[1]) * 1024 for mapping in mappings)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_pages_that_were_read_are_released(grids, tmp_path):
    shards = [tmp_path / "grids/v1/grids" / name for name in SHARDS]
    assert grids._shards[0].sum() > 0
    assert mapped_bytes(shards[0]) > 0

    grids.gather(np.arange(SAMPLES))

    assert [mapped_bytes(shard) for shard in shards] == [0] * len(shards)


def test_rows_that_span_pages_are_read_correctly(tmp_path, monkeypatch):
    """Rows of 27 KiB, in shards of three, are not aligned to pages."""
    pixels = np.random.default_rng(1).integers(0, 256, (7, 4, 3, 48, 48), dtype=np.uint8)
    monkeypatch.setattr(patch_grid_shards, "SHARD_BYTES", 3 * pixels[0].nbytes)
    described = replace(
        pending(chunks=chunks_of(pixels=pixels)),
        samples=7,
        grid=(2, 2),
        patch_size=48,
        statistics_rows=np.ones(7, dtype=bool),
    )
    dataset(tmp_path, save="v1").save(described)
    rows = np.array([6, 0, 5, 2, 2, 3])

    assert np.array_equal(dataset(tmp_path).load().gather(rows).numpy(), pixels[rows])


def test_pickling_stores_the_path_not_the_pixels(grids):
    pickled = pickle.dumps(grids)

    assert len(pickled) < ROW_BYTES
    assert np.array_equal(pickle.loads(pickled).gather(np.array([7]))[0].numpy(), PIXELS[7])


def test_the_same_fingerprint_shares_the_pixels(grids, tmp_path, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    dataset(tmp_path, save="v2").save(pending(chunks=never_called))
    assert caplog.messages == ["Patch grids: the pixels of v1 are used again"]

    loaded = dataset(tmp_path, load="v2").load()

    assert np.array_equal(loaded.gather(np.arange(SAMPLES)).numpy(), PIXELS)
    assert loaded.mean.tolist() == grids.mean.tolist()
    for name in SHARDS:
        inodes = {(tmp_path / f"grids/{v}/grids/{name}").stat().st_ino for v in ("v1", "v2")}
        assert len(inodes) == 1


def test_an_older_version_with_the_fingerprint_is_found(grids, tmp_path):
    dataset(tmp_path, save="v2").save(
        pending(fingerprint="f2", chunks=chunks_of(pixels=255 - PIXELS))
    )
    dataset(tmp_path, save="v3").save(pending(chunks=never_called))

    assert np.array_equal(dataset(tmp_path).load().gather(np.arange(23)).numpy(), PIXELS)
    assert dataset(tmp_path, load="v2").load().fingerprint == "f2"


def test_without_links_the_pixels_are_copied(grids, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    dataset(tmp_path, save="v2").save(pending(chunks=never_called))

    shard = tmp_path / "grids/v2/grids" / SHARDS[0]
    assert shard.stat().st_nlink == 1
    assert np.array_equal(dataset(tmp_path).load().gather(np.arange(23)).numpy(), PIXELS)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def drop_shard(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = {
    "shard cut off": lambda folder: shorten(folder / SHARDS[2]),
    "shard missing": lambda folder: (folder / SHARDS[4]).unlink(),
    "shard of another shape": lambda folder: np.save(folder / SHARDS[0], PIXELS[:4]),
    "shard of another type": lambda folder: np.save(folder / SHARDS[0], PIXELS[:5].astype("i1")),
    "manifest cut off": lambda folder: shorten(folder / "manifest.json"),
    "manifest without a shard": drop_shard,
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_version_is_named_and_not_shared(grids, tmp_path, damage):
    damage(tmp_path / "grids/v1/grids")

    with pytest.raises(CatalogError, match=r"grids/v1/grids/\S+ .*run the patch stage again"):
        dataset(tmp_path).load()

    dataset(tmp_path, save="v2").save(pending())
    assert np.array_equal(dataset(tmp_path).load().gather(np.arange(23)).numpy(), PIXELS)


@pytest.mark.parametrize(
    "rows",
    [PIXELS[:5].astype("i1"), PIXELS[:5].swapaxes(1, 2), PIXELS[:5].view("u2")],
    ids=["another type", "another shape", "both"],
)
def test_a_shard_of_another_type_or_shape_but_the_same_size_is_refused(grids, tmp_path, rows):
    folder = tmp_path / "grids/v1/grids"
    size = (folder / SHARDS[0]).stat().st_size
    np.save(folder / SHARDS[0], np.ascontiguousarray(rows))
    assert (folder / SHARDS[0]).stat().st_size == size

    with pytest.raises(CatalogError, match=r"shard-00000\.npy does not match manifest\.json"):
        PatchGrids(folder)


def test_a_shard_is_checked_once_in_a_process(tmp_path, monkeypatch):
    checked = []
    original = patch_grids.file_crc32
    monkeypatch.setattr(
        patch_grids, "file_crc32", lambda path: checked.append(path.name) or original(path)
    )
    dataset(tmp_path, save="v1").save(pending())

    for _ in range(3):
        dataset(tmp_path).load()
    dataset(tmp_path, save="v2").save(pending(chunks=never_called))
    dataset(tmp_path).load()

    assert checked == SHARDS


def test_a_shard_with_objects_is_not_unpickled(grids, tmp_path):
    np.save(tmp_path / "grids/v1/grids" / SHARDS[0], np.array([{}]), allow_pickle=True)

    with pytest.raises(CatalogError, match="shard-00000"):
        dataset(tmp_path).load()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chunks": chunks_of(pixels=PIXELS[:-1])}, "the chunks have 22 samples, not 23"),
        ({"chunks": lambda _: iter([])}, "the chunks have 0 samples, not 23"),
        ({"chunks": chunks_of(20, pixels=np.repeat(PIXELS, 2, axis=0))}, "not 23"),
        ({"chunks": chunks_of(pixels=PIXELS / 255)}, "float64"),
        ({"chunks": chunks_of(pixels=PIXELS[:, :5])}, "shape"),
        ({"chunks": chunks_of(pixels=PIXELS[..., 0])}, "shape"),
        ({"chunks": lambda _: iter([(PIXELS[:20], {}), (PIXELS[20:, :, :1], {})])}, "shape"),
        ({"statistics_rows": TRAINING[:-1]}, "statistics_rows"),
        ({"statistics_rows": np.zeros(SAMPLES, dtype=bool)}, "statistics_rows"),
    ],
)
def test_chunks_that_contradict_the_description_are_refused(tmp_path, wrong, message):
    with pytest.raises(DatasetError, match=message):
        dataset(tmp_path, save="v1").save(pending(**wrong))

    assert files_of(tmp_path) == []


def test_a_damaged_source_is_named_and_leaves_the_version_before(grids, tmp_path):
    def chunks(start):
        yield PIXELS[:12], {}
        raise UserError("data_batch_3 is damaged")

    with pytest.raises(UserError, match=r"^data_batch_3 is damaged$"):
        dataset(tmp_path, save="v2").save(pending(fingerprint="f2", chunks=chunks))

    assert dataset(tmp_path).load().fingerprint == "f1"
    assert not any("v2" in name for name in files_of(tmp_path))


KILLED_PROCESS = """
import os, signal, sys, time
import numpy as np
from kedro.io.core import Version
from selfie_pipeline.datasets import patch_grid_shards
from selfie_pipeline.datasets.patch_grids import PatchGridDataset

patch_grid_shards.SHARD_BYTES, patch_grid_shards.PROGRESS_INTERVAL_S = int(sys.argv[1]), 0
pixels, training = np.load("pixels.npy"), np.load("training.npy")

def chunks(start):
    for row in range(start, 12):
        yield pixels[row : row + 1], {2: "cut off"} if row == 2 else {}
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)

grids = patch_grid_shards.PendingPatchGrids("f2", 23, (2, 3), 4, chunks, training)
PatchGridDataset(filepath="grids", version=Version(None, "v2")).save(grids)
"""


def kill_a_process_before_row_12(folder):
    np.save(folder / "pixels.npy", WITH_UNREADABLE_ROW)
    np.save(folder / "training.npy", TRAINING)
    command = [sys.executable, "-c", KILLED_PROCESS, str(patch_grid_shards.SHARD_BYTES)]
    process = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


WITH_UNREADABLE_ROW = PIXELS.copy()
WITH_UNREADABLE_ROW[2] = 0


@dataclass
class OneByOne:
    """Chunks of one row each, the third one unreadable; records the samples it starts from."""

    stop_before: int = SAMPLES + 1
    first_samples: list[int] = field(default_factory=list)

    def __call__(self, start):
        self.first_samples.append(start)
        for row in range(start, SAMPLES):
            if row == self.stop_before:
                raise KeyboardInterrupt
            if row == 3 < self.stop_before <= SAMPLES:
                time.sleep(0.2)  # until the progress after the third row is saved
            yield WITH_UNREADABLE_ROW[row : row + 1], {2: "cut off"} if row == 2 else {}
        if self.stop_before == SAMPLES:
            raise KeyboardInterrupt


@pytest.fixture
def save_progress_often(monkeypatch):
    monkeypatch.setattr(patch_grid_shards, "PROGRESS_INTERVAL_S", 0)


def interrupt(folder, row, fingerprint="f2"):
    chunks = OneByOne(stop_before=row)
    with pytest.raises(KeyboardInterrupt):
        dataset(folder, save="v2").save(pending(fingerprint, chunks))
    return chunks.first_samples[0]


def finish(folder, fingerprint="f2"):
    chunks = OneByOne()
    dataset(folder, save="v3").save(pending(fingerprint, chunks))
    return chunks.first_samples[0]


def assert_same_as_uninterrupted(folder):
    """Check that v3 equals that of an uninterrupted run, byte for byte, and nothing else exists."""
    finish(folder / "uninterrupted")
    names = [f"grids/v3/grids/{name}" for name in ["manifest.json", *SHARDS]]
    assert files_of(folder / "uninterrupted") == names
    for name in names:
        assert (folder / name).read_bytes() == (folder / "uninterrupted" / name).read_bytes(), name
    assert not list(folder.rglob(".partial-*"))


def test_a_killed_process_leaves_the_version_before_and_is_resumed(grids, tmp_path, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    kill_a_process_before_row_12(tmp_path)
    assert dataset(tmp_path).load().fingerprint == "f1"

    start = finish(tmp_path)

    assert 0 < start <= 12
    assert f"Patch grids: resumes after sample {start} of 23" in caplog.messages
    assert dataset(tmp_path).load().fingerprint == "f2"
    assert_same_as_uninterrupted(tmp_path)


@pytest.mark.parametrize("rows", [[1], [4], [5], [12], [4, 9, 21], [23], [23, 23]], ids=str)
def test_the_result_does_not_depend_on_the_interruptions(tmp_path, save_progress_often, rows):
    starts = [interrupt(tmp_path, row) for row in rows] + [finish(tmp_path)]

    assert starts[0] == 0
    assert all(0 < start <= row for start, row in zip(starts[1:], rows, strict=True))
    assert starts == sorted(starts)
    assert_same_as_uninterrupted(tmp_path)


def test_the_progress_file_keeps_the_keys_of_earlier_releases(tmp_path, save_progress_often):
    interrupt(tmp_path, 12)

    progress = json.loads((tmp_path / "grids/.partial-f2/progress.json").read_text())

    known = {"fingerprint", "written", "sums", "unreadable", "checksums"}
    assert progress.keys() == known | {"crc32"}


def test_progress_without_checksums_is_resumed(tmp_path, save_progress_often):
    """Earlier releases did not save them."""
    interrupt(tmp_path, 12)
    path = tmp_path / "grids/.partial-f2/progress.json"
    progress = json.loads(path.read_text())
    del progress["checksums"], progress["crc32"]
    path.write_text(json.dumps(progress))

    assert finish(tmp_path) > 0
    assert_same_as_uninterrupted(tmp_path)


def test_changed_progress_without_its_checksum_is_not_resumed(tmp_path, save_progress_often):
    interrupt(tmp_path, 12)
    path = tmp_path / "grids/.partial-f2/progress.json"
    progress = json.loads(path.read_text())
    progress["checksums"][0] += 1
    path.write_text(json.dumps(progress | {"crc32": None}))

    assert finish(tmp_path) == 0
    assert_same_as_uninterrupted(tmp_path)


def test_changed_progress_is_not_resumed(tmp_path, save_progress_often):
    interrupt(tmp_path, 12)
    path = tmp_path / "grids/.partial-f2/progress.json"
    progress = json.loads(path.read_text())
    progress["sums"][0][1] += 1
    path.write_text(json.dumps(progress))

    assert finish(tmp_path) == 0
    assert_same_as_uninterrupted(tmp_path)


def test_a_shard_whose_header_can_not_be_parsed_is_named(tmp_path):
    dataset(tmp_path, save="v1").save(pending())
    path = next((tmp_path / "grids/v1/grids").glob("shard-*"))
    path.write_bytes(path.read_bytes().replace(b"'shape': (", b"'shape': {"))

    with pytest.raises(CatalogError, match=rf"{path.name} can't be read"):
        dataset(tmp_path).load()


def test_unfinished_versions_of_other_pixels_are_removed(tmp_path, save_progress_often, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    interrupt(tmp_path, 12, fingerprint="f9")
    (tmp_path / "grids/v1").mkdir()
    (tmp_path / "grids/v1/.partial-grids").mkdir()  # of a process that died before the rename

    assert finish(tmp_path) == 0

    assert not any("resumes" in line for line in caplog.messages)
    assert_same_as_uninterrupted(tmp_path)


def test_progress_that_a_killed_process_was_writing_is_removed(tmp_path, save_progress_often):
    interrupt(tmp_path, 12)
    (tmp_path / "grids/.partial-f2/.partial-progress.json").write_text("{")

    assert finish(tmp_path) > 0
    assert_same_as_uninterrupted(tmp_path)


def test_a_failure_before_the_first_progress_leaves_nothing(tmp_path):
    interrupt(tmp_path, 12)

    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shorten(folder / "progress.json"),
        lambda folder: (folder / "progress.json").unlink(),
        lambda folder: (folder / SHARDS[0]).unlink(),
        lambda folder: (folder / SHARDS[0]).write_bytes(b""),
    ],
    ids=["progress cut off", "progress missing", "shard missing", "shard cut off"],
)
def test_a_damaged_unfinished_version_is_restarted(tmp_path, save_progress_often, damage):
    interrupt(tmp_path, 12)
    damage(tmp_path / "grids/.partial-f2")

    assert finish(tmp_path) == 0

    assert_same_as_uninterrupted(tmp_path)


def test_an_unreadable_sample_is_recorded_and_left_out_of_the_statistics(tmp_path):
    pixels = PIXELS.copy()
    pixels[[1, 4]] = 0
    reasons = {1: "empty", 4: "cut off"}

    def chunks(start):
        yield pixels[:3], {1: "empty"}
        yield pixels[3:], {4: "cut off"}

    dataset(tmp_path, save="v1").save(pending(chunks=chunks))

    grids = dataset(tmp_path).load()
    counted = np.delete(PIXELS, [1, 4], axis=0)[np.delete(TRAINING, [1, 4])] / 255
    assert grids.unreadable == reasons
    np.testing.assert_allclose(grids.mean, counted.mean(axis=(0, 1, 3, 4)), rtol=1e-6)
    np.testing.assert_allclose(grids.std, counted.std(axis=(0, 1, 3, 4)), rtol=1e-6)


def test_without_a_readable_sample_there_are_no_statistics(tmp_path):
    def chunks(start):
        yield 0 * PIXELS, dict.fromkeys(range(SAMPLES), "empty")

    with pytest.raises(UserError, match="none of the training images can be read"):
        dataset(tmp_path, save="v1").save(pending(chunks=chunks))


def test_two_processes_write_one_after_the_other(tmp_path, caplog):
    """The second waits, then shares the pixels that the first has written."""
    caplog.set_level("INFO", "selfie_pipeline")
    started = threading.Event()

    def save_second():
        started.wait()
        dataset(tmp_path, save="v2").save(pending(chunks=never_called))

    def chunks(start):
        started.set()
        while not any("patch: waits for process" in line for line in caplog.messages):
            time.sleep(0.01)
        yield PIXELS, {}

    thread = threading.Thread(target=save_second)
    thread.start()
    dataset(tmp_path, save="v1").save(pending(chunks=chunks))
    thread.join()

    assert [Path(version).parent.name for version in dataset(tmp_path).list_versions()] == [
        "v2",
        "v1",
    ]


def test_a_lock_that_cannot_be_created_is_named(tmp_path):
    grids = dataset(tmp_path, save="v1")
    path = Path(grids._filepath)
    path.with_name(f".{path.name}.lock").mkdir()

    with pytest.raises(UserError, match=r"^\S+\.lock can't be locked: .*; fix the cause"):
        grids.save(pending())


def test_the_catalog_always_versions_it(tmp_path):
    entry = {
        "type": "selfie_pipeline.datasets.patch_grids.PatchGridDataset",
        "filepath": str(tmp_path / "grids"),
    }
    for version in ("v1", "v2"):
        catalog = DataCatalog.from_config({"grids": entry}, save_version=version)
        catalog.save("grids", pending(fingerprint=version))

    pinned = DataCatalog.from_config({"grids": entry}, load_versions={"grids": "v1"})

    assert catalog.load("grids").fingerprint == "v2"
    assert pinned.load("grids").fingerprint == "v1"
