"""Tests of `benchmarks/gpu.py`: time limits, result files, and a rehearsal of all its parts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pandas as pd
import pytest
import torch
from gpu_parts.row import summary
from gpu_parts.run import Record, time_limit, write_table
from gpu_parts.throughput import VARIANTS, put_channels_first
from scipy import stats
from torch import nn

from selfie_pipeline.models.selfie import Selfie

COMMAND = [sys.executable, str(Path(gpu.__file__))]


def run_benchmark(out, *options):
    command = [*COMMAND, "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie has ended


def test_a_record_is_written_after_each_result(tmp_path):
    record = Record(tmp_path, "part", batch=8)
    record.add(first=1.5)
    assert json.loads((tmp_path / "part.json").read_text())["first"] == 1.5

    record.add(second=[2, 3])

    found = json.loads((tmp_path / "part.json").read_text())
    assert (found["part"], found["batch"]) == ("part", 8)
    assert (found["first"], found["second"]) == (1.5, [2, 3])
    assert "torch" in found["versions"]
    assert [path.name for path in tmp_path.iterdir()] == ["part.json"]


def test_a_result_that_is_not_json_keeps_the_earlier_ones(tmp_path):
    record = Record(tmp_path, "part")
    record.add(first=1.5)
    with pytest.raises(ValueError, match="JSON"):
        record.add(second=float("nan"))
    assert json.loads((tmp_path / "part.json").read_text())["first"] == 1.5


def test_a_table_is_written_as_csv(tmp_path):
    rows = [{"variant": "eager", "images_per_s": 2.5}, {"variant": "compiled", "error": "no"}]
    write_table(rows, tmp_path / "table.csv")
    assert pd.read_csv(tmp_path / "table.csv")["variant"].tolist() == ["eager", "compiled"]


def test_time_limit_stops_a_longer_body():
    started = time.monotonic()
    with pytest.raises(TimeoutError), time_limit(0.2):
        time.sleep(30)
    assert time.monotonic() - started < 20
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_time_limit_does_not_stop_a_shorter_body():
    with time_limit(30):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_command_that_ends_in_time_returns_its_status():
    assert gpu.run_limited(["sh", "-c", "exit 3"], 30) == 3


def test_a_command_is_killed_at_its_time_limit_with_its_children(tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    assert gpu.run_limited(["sh", "-c", script], 1) is None

    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not is_alive(pid):
            break
        time.sleep(0.05)
    assert not is_alive(pid)


def test_a_part_without_time_is_skipped(tmp_path):
    done = run_benchmark(tmp_path, "--budget", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{part}: no time left" for part in gpu.LIMITS]
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_reaches_its_time_limit_is_named(tmp_path):
    """The imports alone take longer than the limit."""
    limits = json.dumps({"resume": gpu.MIN_PART_S})
    done = run_benchmark(tmp_path, "--parts", "resume", "--limits", limits, "--rehearse")
    assert done.returncode == 1
    assert "resume: 10 s at most" in done.stdout
    assert "failed or out of time: resume" in done.stderr


def test_a_rehearsal_without_time_fails(tmp_path):
    done = run_benchmark(tmp_path, "--budget", "5", "--rehearse")
    assert done.returncode == 1
    assert "out of time: preflight, throughput, peers, resume, row" in done.stderr


def test_few_small_results_are_accepted(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.json").write_text("{}")
    os.truncate(tmp_path / "7.json", 16 * 2**20)
    gpu.check_results(tmp_path)


def test_too_many_results_are_an_error(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.json").write_text("{}")
    with pytest.raises(SystemExit, match="9 files"):
        gpu.check_results(tmp_path)


def test_a_large_result_is_an_error(tmp_path):
    (tmp_path / "kernels.csv").touch()
    os.truncate(tmp_path / "kernels.csv", 16 * 2**20 + 1)
    with pytest.raises(SystemExit, match=r"kernels\.csv"):
        gpu.check_results(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_torch_accepts_the_compile_options_of_each_variant(variant):
    if variant.compile is not None:
        nn.Linear(2, 2).compile(dynamic=False, **variant.compile)
        backend = variant.compile.get("backend", "inductor")
        assert backend in torch.compiler.list_backends(exclude_tags=())


def test_the_autotuning_options_are_those_of_the_mode():
    mode = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
    (variant,) = [variant for variant in VARIANTS if variant.name == "compiled, max-autotune"]
    assert variant.compile == {"options": mode}


@pytest.mark.parametrize("first", [False, True])
def test_the_stem_has_the_memory_format_of_the_variant(make_config, first):
    """Only the stem is checked: on a CPU, the matrix products after it put channels last."""
    config = make_config()
    network = Selfie(config.model, config.patch).to(memory_format=torch.channels_last)
    if first:
        put_channels_first(network)
    seen = []
    stem = network.patch_network.stem.conv
    stem.register_forward_hook(lambda _, inputs, maps: seen.extend([inputs[0], maps, stem.weight]))

    network.embed(torch.randn(2, 16, 3, 8, 8))

    assert len(seen) == 3
    for tensor in seen:
        assert tensor.is_contiguous() == first
        assert tensor.is_contiguous(memory_format=torch.channels_last) == (not first)


def test_the_summary_has_the_paired_interval():
    supervised, selfie = [0.50, 0.54, 0.52], [0.57, 0.60, 0.61]
    cells = [
        {"labeled_frac": 0.05, "seed": seed, "supervised": a, "selfie": b}
        for seed, (a, b) in enumerate(zip(supervised, selfie, strict=True))
    ]
    other = {"labeled_frac": 0.08, "seed": 0, "supervised": 0.1, "selfie": 0.9}

    found = summary([*cells, other], 0.05)

    expected = stats.ttest_rel(selfie, supervised).confidence_interval(0.95)
    assert found["seeds"] == 3
    assert found["supervised"]["mean"] == pytest.approx(52.0)
    assert found["gain"]["mean"] == pytest.approx(7.33)
    assert found["gain"]["low"] == pytest.approx(100 * expected.low, abs=0.01)
    assert found["gain"]["high"] == pytest.approx(100 * expected.high, abs=0.01)


def test_one_seed_has_no_interval():
    (cell,) = [{"labeled_frac": 0.05, "seed": 0, "supervised": 0.5, "selfie": 0.6}]
    assert summary([cell], 0.05)["gain"] == {"mean": 10.0}


@pytest.mark.rehearsal
def test_a_rehearsal_runs_every_part(tmp_path):
    done = run_benchmark(tmp_path, "--rehearse", "--budget", "850")

    assert done.returncode == 0, done.stdout + done.stderr
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert results.keys() == gpu.LIMITS.keys()
    gpu.check_results(tmp_path)
    preflight, resume, row = (results[part] for part in ("preflight", "resume", "row"))
    assert preflight["fp32_within_tolerance"]
    assert preflight["bf16_within_tolerance"]
    assert preflight["copy_bytes_per_s"] > 0
    assert preflight["best_flops"] > 0
    assert resume["was_killed"]
    assert resume["same_bits"]
    assert resume["resumed_at_step"] > 1
    throughput = pd.read_csv(tmp_path / "throughput.csv")
    assert (throughput["images_per_s"] > 0).all()
    assert results["throughput"]["fastest"]["images_per_s"] == throughput["images_per_s"].max()
    assert len(pd.read_csv(tmp_path / "kernels.csv")) >= 20
    cells = pd.read_csv(tmp_path / "row.csv")
    assert len(cells) == 4
    assert {"mean", "std"} <= row["5%"]["gain"].keys()  # no interval where all gains are equal
    assert results["peers"]["ours is faster than plain Selfie, times"] > 0
