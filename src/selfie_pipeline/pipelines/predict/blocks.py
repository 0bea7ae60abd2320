"""Classification of image files in blocks, from which an interrupted run resumes.

A finished block is stored as a checkpoint, whose step is the block's number. It is used again only
if its files have the same paths, sizes and times of modification, and no other files are readable
now.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from selfie_pipeline.evaluation.predictions import TopTwo, find_top_two
from selfie_pipeline.models.preprocessing import Preprocessing
from selfie_pipeline.progress import track
from selfie_pipeline.provenance import hash_json
from selfie_pipeline.sources.decoding import batch_files, map_ordered, may_be_readable_now
from selfie_pipeline.sources.image_files import read_windows
from selfie_pipeline.threads import torch_threads
from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints
from selfie_pipeline.training.inference import Inference

_LOG = logging.getLogger(__name__)
BLOCK_FILES = 2048
"""Files of a block: the work that a killed process loses."""
_BATCH_FILES = 64  # as many small images stay in a core's cache
_BATCH_BYTES = 2**20  # of files; few large ones, so that all cores decode them

Reasons = list[str | None]
"""For each file None, or the reason that it is unreadable."""


class Block(NamedTuple):
    """The results of consecutive files."""

    top: TopTwo
    """Of the readable files, in their order."""
    reasons: Reasons
    oddities: Counter[str]
    """Numbers of images, for `log_oddities`."""


def classify_in_blocks(
    infer: Inference,
    folder: Path,
    names: Sequence[str],
    preprocessing: Preprocessing,
    checkpoints: Checkpoints,
) -> Block:
    """Classify image files, but for those of blocks that an earlier call has stored.

    `names` are paths in `folder`, at least one. Finished blocks stay in `checkpoints`.

    Returns:
        The results of all files.

    Raises:
        UserError: A block can't be stored; the same call resumes.
    """
    starts = range(0, len(names), BLOCK_FILES)
    blocks = {start // BLOCK_FILES: names[start : start + BLOCK_FILES] for start in starts}
    with checkpoints.reserved("predict"):
        done = dict(_load_blocks(checkpoints, folder, blocks))
        if resumed := sum(len(block.reasons) for block in done.values()):
            _LOG.info("predict: resumes after %d of %d files", resumed, len(names))
        missing = {number: part for number, part in blocks.items() if number not in done}
        start = time.monotonic()
        with track("predict", len(names), unit=" files", initial=resumed) as progress:
            for number, digest, block in _classify(infer, folder, missing, preprocessing, progress):
                _save_block(checkpoints, number, digest, block)
                done[number] = block
        rate = (len(names) - resumed) / (time.monotonic() - start)
        _LOG.info("predict: %.0f files per second", rate)
    return _join(done[number] for number in blocks)


def _classify(
    infer: Inference,
    folder: Path,
    blocks: Mapping[int, Sequence[str]],
    preprocessing: Preprocessing,
    progress: tqdm[Any],
) -> Iterator[tuple[int, str, Block]]:
    """Yield each block's number, digest and results; those after it are being classified then."""
    digests: dict[int, str] = {}

    def batches() -> Iterator[list[Path]]:
        for number, names in blocks.items():
            states = _stat_files(folder, names)  # before they are read: they may change then
            digests[number] = hash_json(states)
            files = ((folder / name, state[0] if state else 0) for name, state in states.items())
            for batch in batch_files(files, _BATCH_BYTES, _BATCH_FILES):
                yield [path for path, _ in batch]

    def infer_batch(files: list[Path]) -> Block:
        windows, reasons, oddities = read_windows(files, preprocessing.patch)
        images = torch.from_numpy(windows).permute(0, 3, 1, 2)  # (n, C, H, W)
        empty = np.empty((0, len(preprocessing.classes)), dtype=np.float32)
        logits = infer(images) if len(images) else empty  # (n, classes)
        return Block(find_top_two(logits), reasons, oddities)

    with torch_threads(1):  # threads that share a batch of small images wait for each other
        results = map_ordered(infer_batch, batches())
        for number, names in blocks.items():
            parts, missing = [], len(names)
            while missing:
                part = next(results)
                parts.append(part)
                progress.update(len(part.reasons))
                missing -= len(part.reasons)
            yield number, digests.pop(number), _join(parts)


def _join(parts: Iterable[Block]) -> Block:
    """Return the results of the files of all parts."""
    tops, reasons, oddities = zip(*parts, strict=True)
    top = TopTwo(*map(np.concatenate, zip(*tops, strict=True)))
    return Block(top, list(chain.from_iterable(reasons)), sum(oddities, Counter()))


def _stat_files(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, int] | None]:
    """Return the sizes and times of modification of files; None for a dead link and the like."""
    return {name: _stat(folder / name) for name in names}


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _save_block(checkpoints: Checkpoints, number: int, digest: str, block: Block) -> None:
    note = {"files": digest, "reasons": block.reasons, "oddities": block.oddities}
    tensors = {
        "labels": torch.from_numpy(block.top.labels),
        "probabilities": torch.from_numpy(block.top.probabilities),
        "note": torch.frombuffer(bytearray(json.dumps(note).encode()), dtype=torch.uint8),
    }
    checkpoints.save(Checkpoint(number, tensors))


def _load_blocks(
    checkpoints: Checkpoints, folder: Path, blocks: Mapping[int, Sequence[str]]
) -> Iterator[tuple[int, Block]]:
    """Yield the numbers and results of stored blocks whose files are the same.

    Not those with a file that the system refused to read, or whose decoder was missing then: it may
    be readable now.
    """
    for number, tensors in ((each.step, each.tensors) for each in checkpoints.usable()):
        note = json.loads(tensors["note"].numpy().tobytes())
        outdated = any(may_be_readable_now(reason) for reason in note["reasons"] if reason)
        if not outdated and note["files"] == hash_json(_stat_files(folder, blocks.get(number, ()))):
            top = TopTwo(tensors["labels"].numpy(), tensors["probabilities"].numpy())
            oddities = Counter(note.get("oddities"))  # an earlier commit stored none
            yield number, Block(top, note["reasons"], oddities)
