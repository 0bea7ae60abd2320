"""Tests of saving and loading weights."""

import json

import pytest
import torch
from kedro.io.core import Version
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from selfie_pipeline.datasets.atomic import CatalogError
from selfie_pipeline.datasets.weights import WeightsDataset
from selfie_pipeline.weights import Weights

PROVENANCE = {"seed": 3, "config": {"width": 16, "name": "Größe"}, "commit": None}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


@pytest.fixture
def weights():
    return Weights(dict(network().state_dict()), PROVENANCE)


def dataset(folder, save=None, load=None):
    return WeightsDataset(filepath=str(folder / "encoder.safetensors"), version=Version(load, save))


def test_tensors_and_provenance_are_loaded_as_saved(weights, tmp_path):
    dataset(tmp_path, save="v1").save(weights)

    loaded = dataset(tmp_path).load()

    assert loaded.provenance == PROVENANCE
    assert loaded.tensors.keys() == weights.tensors.keys()
    for name, tensor in weights.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)
    network().load_state_dict(loaded.tensors, strict=True)


def test_the_file_is_plain_safetensors(weights, tmp_path):
    dataset(tmp_path, save="v1").save(weights)

    path = tmp_path / "encoder.safetensors/v1/encoder.safetensors"

    assert torch.equal(load_file(path)["0.weight"], weights.tensors["0.weight"])


def test_kedro_viz_previews_the_provenance(weights, tmp_path):
    dataset(tmp_path, save="v1").save(weights)

    preview = json.loads(dataset(tmp_path).preview())

    sizes = [tensor.numel() for tensor in weights.tensors.values()]
    assert preview == {"tensors": len(sizes), "numbers": sum(sizes), **PROVENANCE}


def test_an_older_version_can_be_loaded(weights, tmp_path):
    dataset(tmp_path, save="v1").save(weights)
    dataset(tmp_path, save="v2").save(Weights({"w": torch.ones(1)}, {}))

    assert dataset(tmp_path, load="v1").load().digest() == weights.digest()
    assert dataset(tmp_path).load().tensors.keys() == {"w"}


def test_an_unknown_version_is_refused_with_the_available_ones(weights, tmp_path):
    dataset(tmp_path, save="v1").save(weights)
    dataset(tmp_path, save="v2").save(weights)

    with pytest.raises(CatalogError, match=r"v3/.* does not exist; available versions: v2, v1"):
        dataset(tmp_path, load="v3").load()


def test_shared_channels_last_and_trained_tensors_are_saved_contiguous(tmp_path):
    table = torch.arange(24.0).reshape(1, 2, 3, 4)
    tensors = {
        "channels_last": table.to(memory_format=torch.channels_last),
        "slice": table[:, :1],
        "shared": table,
        "trained": torch.nn.Parameter(table),
        "half": table.bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
    }
    dataset(tmp_path, save="v1").save(Weights(tensors, {}))

    loaded = dataset(tmp_path).load().tensors

    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert all(tensor.is_contiguous() for tensor in loaded.values())


def test_a_flipped_bit_is_detected(weights, tmp_path):
    dataset(tmp_path, save="v1").save(weights)
    path = tmp_path / "encoder.safetensors/v1/encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    with pytest.raises(CatalogError, match=r"encoder\.safetensors is damaged"):
        dataset(tmp_path).load()


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_cut_off_file_is_named(weights, tmp_path, length):
    dataset(tmp_path, save="v1").save(weights)
    path = tmp_path / "encoder.safetensors/v1/encoder.safetensors"
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(CatalogError, match=f"{path} can't be read"):
        dataset(tmp_path).load()


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"origin": ""},
        {"origin": "{"},
        {"origin": "[" * 100_000},
        {"origin": "[]"},
        {"origin": '{"provenance": {}}'},
        {"origin": '{"provenance": [], "digest": ""}'},
        {"origin": '{"provenance": {}, "digest": 3}'},
    ],
    ids=lambda metadata: str(metadata)[:40],
)
@pytest.mark.parametrize("read", ["load", "preview"])
def test_weights_without_provenance_are_refused(tmp_path, metadata, read):
    path = tmp_path / "encoder.safetensors/v1/encoder.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"w": torch.ones(1)}, path, metadata)

    with pytest.raises(CatalogError, match="has no provenance"):
        getattr(dataset(tmp_path), read)()


def test_a_failure_while_writing_leaves_the_version_before(weights, tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    dataset(tmp_path, save="v1").save(weights)
    monkeypatch.setattr("selfie_pipeline.datasets.weights.save_file", fail)

    with pytest.raises(CatalogError, match="No space left"):
        dataset(tmp_path, save="v2").save(Weights({}, {}))

    assert dataset(tmp_path).load().digest() == weights.digest()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["encoder.safetensors"]


def change_origin(path, **changes):
    with safe_open(path, framework="pt") as file:
        origin = json.loads(file.metadata()["origin"])
    save_file(load_file(path), path, {"origin": json.dumps({**origin, **changes})})


def test_a_changed_provenance_is_refused(weights, tmp_path):
    data = WeightsDataset(filepath=str(tmp_path / "encoder.safetensors"))
    data.save(weights)
    change_origin(tmp_path / "encoder.safetensors", provenance={**PROVENANCE, "seed": 4})

    with pytest.raises(CatalogError, match="damaged: its tensors or their provenance"):
        data.load()


def test_weights_without_a_digest_of_the_provenance_are_loaded(weights, tmp_path):
    path = tmp_path / "encoder.safetensors"
    origin = {"provenance": PROVENANCE, "digest": weights.digest()}
    save_file(weights.tensors, path, {"origin": json.dumps(origin)})

    assert WeightsDataset(filepath=str(path)).load().provenance == PROVENANCE
