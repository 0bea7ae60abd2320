"""Tests that run every command of README.md and docs/, in a copy of the project, with small sizes.

Commands are the lines of the ```sh blocks, and `kedro …`, `python …` or `make …` in the text. Each
is run as it is written, with the parameters of `short` after its own; placeholders are replaced by
existing files (`STANDS_FOR`). `NOT_RUN` has the commands that can't be run here, with the reasons;
their options and parameters are checked nevertheless. A ```console block shows an error: its
command must end with the line that it shows.
"""

from __future__ import annotations

import io
import itertools
import pickle
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from kedro.config import OmegaConfigLoader
from PIL import Image

from selfie_pipeline.cli import run
from selfie_pipeline.config import load_config
from selfie_pipeline.pipeline_registry import PIPELINE_NAMES
from selfie_pipeline.settings import CONFIG_LOADER_ARGS

pytestmark = [
    pytest.mark.docs,
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute on the instance"),
]
REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(REPOSITORY.glob("docs/*.md")),
]
NOT_RUN = {
    r"python3? -m (venv|compileall)|.*\bpip install\b|source ": "makes the tests' own environment",
    r"make |\.ci/run|.*\bpytest\b": "runs the tests, or is run by .ci/run itself",
    r"kedro viz": "serves until it is stopped",
    r".*--env=imagenet": "needs ImageNet; tests/pipelines/test_sources.py has a few files",
    r"python benchmarks/(budget|cells|kill_resume|growth|scaling)\.py": "takes minutes at any size",
    r"python benchmarks/startup\.py": "takes a minute, as it starts the same command several times",
    r"python benchmarks/mutations\.py": "takes an hour; tests/benchmarks has its faults",
    r".*\bbudget=": "takes as long as it says",
    r".*compute\.engine=ray": "starts a Ray cluster, as the tests marked `ray` do",
    r"ray |export ": "is about a cluster of several machines",
    r"python benchmarks/simclr\.py": "needs lightly, which is not in the extra `dev`",
    r"python benchmarks/duplicates\.py": "needs a list that others published",
    r"python benchmarks/(gpu|peers)\.py": "takes minutes; tests/benchmarks has a rehearsal of both",
    r"python benchmarks/gpu_bundle\.py": "needs CIFAR-10 and a network; see tests/benchmarks",
    r"python -m tests\.hostile": "is what tests/hostile runs, with fewer inputs",
    r".*weights_selfie": "needs what the line above it makes; test_initial_weights.py runs it",
    r"git |cd ": "is about the checkout",
}
"""Patterns of commands that are not run, with the reasons."""
STANDS_FOR = {
    "/home/me/photographs": "photographs",
    "/home/me/labels.csv": "labels.csv",
    "path/to/folder": "photographs/train",
    "path/to/image.jpg": "photographs/train/cat/1.jpg",
    "path/to/resnet.safetensors": "resnet.safetensors",
    "simclr.safetensors": "resnet.safetensors",
}
SHORTER = {
    "benchmarks/throughput.py": "--recipe base --batch 8 --steps 1",
    "benchmarks/overhead.py": "--block 1 --pairs 3",
    "benchmarks/checksums.py": "--photographs 8 --arrays 8 --rounds 1",
    "benchmarks/ingest.py": "--images 8 --pairs 1",
    "benchmarks/profile_stages.py": "--steps 1 --files 16",
}
"""Options with which a benchmark takes seconds."""
FEW_CELLS = (
    "experiment.seeds=[0],experiment.labeled_fracs=[0.1],tune.trials=1,ratio.images=[20],"
    "embed.points=50,data.max_unreadable=0.1"
)
FOLDERS = {"cifar10": "cifar", "cifar10_small": "cifar", "image_folder": "photographs"}


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands_of(text: str) -> list[str]:
    """Return the commands on a page."""
    lines = "".join(fenced(text, "sh")).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:kedro|python|make) [^`]+)`", without_fences(text))
    plain = (re.sub(r"(^|\s)#.*", "", line).replace(".venv/bin/", "") for line in lines)
    return [" ".join(command.split()) for command in [*plain, *inline] if command.strip()]


def refusals_of(text: str) -> list[tuple[str, str]]:
    """Return the commands that end with an error, and its line."""
    blocks = (block.split("\n", 1) for block in fenced(text, "console"))
    return [(command.removeprefix("$ "), " ".join(line.split())) for command, line in blocks]


COMMANDS = sorted({c for page in PAGES for c in commands_of(page.read_text("utf-8"))})
REFUSALS = [found for page in PAGES for found in refusals_of(page.read_text("utf-8"))]


def reason_not_to_run(command: str) -> str | None:
    return next((why for known, why in NOT_RUN.items() if re.match(known, command)), None)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _raw_data(project: Path) -> None:
    """Write photographs of noise, and noise in CIFAR-10's format."""
    random = np.random.default_rng(0)
    for number in range(72):
        split = ("test", "train", "train", "unlabeled")[number % 4]
        file = project / "photographs" / split / ("cat", "dog")[number // 4 % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((200, 150)).save(file)
    (project / "labels.csv").write_text("file,class\ntrain/dog/5.jpg,cat\n")
    (encoder,) = project.glob("data/06_models/digits/encoder.safetensors/*/*.safetensors")
    shutil.copy(encoder, project / "resnet.safetensors")
    folder = project / "cifar"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (100, 3072), dtype=np.uint8)
        batch = {b"labels": [i % 10 for i in range(100)], b"data": pixels}
        batch[b"filenames"] = [b"image.png"] * 100
        content = pickle.dumps(batch, protocol=3)  # as published: before NumPy 2
        (folder / name).write_bytes(content.replace(b"numpy._core.", b"numpy.core."))
    names = {b"label_names": [b"class %d" % label for label in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=3))


@pytest.fixture(scope="module")
def prepared(project: Path) -> dict[str, Path]:
    """Return copies of data/ after one run of a recipe; the digits' exists already."""
    shutil.copytree(project / "data", project / "prepared/digits")
    return {"digits": project / "prepared/digits"}


def words_of(command: str, project: Path) -> list[str]:
    """Return the command's words, with its placeholders replaced."""
    for placeholder, real in STANDS_FOR.items():
        command = command.replace(placeholder, real)
    encoder = project / "prepared/digits/06_models/digits/encoder.safetensors"
    (version,) = encoder.iterdir()
    return shlex.split(re.sub(r"\bencoder:\d\S+", f"encoder:{version.name}", command))


def option(words: list[str], name: str) -> str | None:
    """Return the value of a command's option; the last one counts."""
    context = run.make_context("run", words[2:])
    value: str | None = context.params[name]
    return value


def kedro_run(words: list[str], short: str) -> Result:
    """Run the command in this process, with the short parameters after its own."""
    env = option(words, "env") or ""
    given = [word.removeprefix("--params=") for word in words if word.startswith("--params=")]
    given += [after for word, after in itertools.pairwise(words) if word == "--params"]
    folder = f"data.folder={FOLDERS[env]}" if env in FOLDERS else ""
    params = ",".join(filter(None, [*given, folder, short, FEW_CELLS]))
    return CliRunner().invoke(run, [*words[2:], f"--params={params}"])


def prepare(env: str, project: Path, short: str, prepared: dict[str, Path]) -> None:
    """Replace data/ by its content after one run of this recipe."""
    if env not in prepared:
        shutil.rmtree(project / "data", ignore_errors=True)
        first = kedro_run(["kedro", "run", f"--env={env}"], short)
        assert first.exit_code == 0, first.output[-2000:]
        prepared[env] = project / "prepared" / env
        shutil.copytree(project / "data", prepared[env])
    shutil.rmtree(project / "data", ignore_errors=True)
    shutil.copytree(prepared[env], project / "data")


def check_kedro_run(words: list[str]) -> None:
    """Check that its options and pipelines exist, and that its parameters are allowed."""
    params = run.make_context("run", words[2:]).params
    named = [params["pipeline"] or "", *(params["pipelines"] or [])]
    assert {name for name in named if name} <= set(PIPELINE_NAMES)
    arguments: dict[str, Any] = CONFIG_LOADER_ARGS | {
        "default_run_env": params["env"] or "local",
        "runtime_params": params["params"],
    }
    load_config(OmegaConfigLoader(str(REPOSITORY / "conf"), **arguments)["parameters"])


def check_only(words: list[str], project: Path) -> None:
    """Check that a command that is not run exists with its options."""
    if words[:2] == ["kedro", "run"]:
        check_kedro_run(words)
    elif words[0] == "make":
        shell(["make", "--dry-run", *words[1:]], project)
    elif words[0] == "kedro":
        names = [word for word in words[1:] if not word.startswith("-")]
        told = shell([sys.executable, "-m", "kedro", *names, "--help"], project)
        assert all(word.split("=")[0] in told for word in words if word.startswith("--"))
    elif words[0] == "python" and words[1].endswith(".py"):
        told = run_script(project / words[1], "--help")
        assert all(word.split("=")[0] in told for word in words if word.startswith("--"))


def run_script(script: Path, *options: str) -> str:
    """Run a script in this process, which has imported torch, and return what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(script), *options])
        patch.syspath_prepend(script.parent)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
    return printed.getvalue()


def shell(words: list[str], project: Path) -> str:
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, project: Path, short: str, prepared: dict[str, Path]) -> None:
    words = words_of(command, project)
    if reason_not_to_run(command):
        check_only(words, project)
        return
    if words[:2] == ["kedro", "run"]:
        check_kedro_run(words)
        prepare(option(words, "env") or "digits", project, short, prepared)
        done = kedro_run(words, short)
        assert done.exit_code == 0, done.output[-2000:]
    elif words[0] == "python" and words[1].endswith(".py"):
        run_script(project / words[1], *words[2:], *SHORTER.get(words[1], "").split())
    else:
        known = {"kedro": [sys.executable, "-m", "kedro"], "python": [sys.executable]}
        shell([*known.get(words[0], words[:1]), *words[1:]], project)


@pytest.mark.parametrize(("command", "line"), REFUSALS)
def test_a_refusal_is_in_the_words_of_the_page(
    command: str, line: str, project: Path, short: str, prepared: dict[str, Path]
) -> None:
    prepare("digits", project, short, prepared)
    done = CliRunner().invoke(run, words_of(command, project)[2:])
    assert done.exit_code != 0
    told = " ".join(done.stderr.splitlines()[-1].split())
    assert told.replace(str(project), "/home/me/selfie-pipeline") == line


@pytest.mark.parametrize("picture", [path.name for path in REPOSITORY.glob("docs/pictures/*")])
def test_pictures_are_small(picture: str) -> None:
    assert (REPOSITORY / "docs/pictures" / picture).stat().st_size < 150_000


def test_the_pages_have_commands() -> None:
    assert sum(reason_not_to_run(command) is None for command in COMMANDS) > 20
    assert {"kedro run", "kedro run --pipeline=predict --params images=path/to/folder"} <= {
        *COMMANDS
    }


@pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(REPOSITORY).as_posix() for page in PAGES]
)
def test_links_lead_somewhere(page: Path) -> None:
    text = without_fences(page.read_text("utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    lost = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert lost == []
