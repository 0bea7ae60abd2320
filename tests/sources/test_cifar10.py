"""Tests of the CIFAR-10 source: reading, damage, download."""

import hashlib
import logging
import pickle
import socket
import tarfile
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torchvision.datasets

from selfie_pipeline.config import UserError
from selfie_pipeline.sources import cifar10, open_source
from selfie_pipeline.sources.cifar10 import find_unpublished_files, open_cifar10, read_cifar10


def test_the_table_has_the_training_batches_then_the_test_batch(cifar_folder):
    samples = read_cifar10(cifar_folder).samples()

    assert samples["split"].tolist() == ["train"] * 20 + ["test"] * 3
    assert samples["label"].tolist() == [0, 1, 2, 0] * 5 + [0, 1, 2]
    assert samples["class_name"].tolist()[:3] == ["airplane", "automobile", "bird"]
    assert samples["place"][17] == "data_batch_5[1]"
    assert samples["place"][22] == "test_batch[2]"


def test_images_are_in_the_table_order_with_red_green_blue_last(cifar_folder, batches, all_images):
    images = all_images(read_cifar10(cifar_folder), 32)

    assert images.shape == (23, 32, 32, 3)
    red_green_blue = batches["data_batch_5"][b"data"][1].reshape(3, 32, 32)
    assert np.array_equal(images[17], np.stack(list(red_green_blue), axis=-1))


def test_images_are_fitted_to_the_canvas(cifar_folder):
    source = read_cifar10(cifar_folder)

    chunks = list(source.images(source.samples(), 48))

    assert [chunk.images.shape for chunk in chunks] == [*[(4, 48, 48, 3)] * 5, (3, 48, 48, 3)]
    assert not any(chunk.unreadable for chunk in chunks)


@pytest.mark.parametrize("start", [0, 3, 4, 13, 22, 23])
def test_images_can_be_read_from_any_sample_on(cifar_folder, all_images, start):
    source = read_cifar10(cifar_folder)
    everything = all_images(source, 32)

    rest = [chunk.images for chunk in source.images(source.samples(), 32, start)]

    assert np.array_equal(np.concatenate([everything[:start], *rest]), everything)
    assert sum(map(len, rest)) == 23 - start


def test_the_fingerprint_depends_on_the_files(cifar_folder, batches, write_python2):
    samples = read_cifar10(cifar_folder).samples()
    before = read_cifar10(cifar_folder).fingerprint(samples)
    assert read_cifar10(cifar_folder).fingerprint(samples) == before

    batch = batches["test_batch"]
    batch[b"data"][2, 3071] ^= 1
    write_python2(cifar_folder / "test_batch", batch)

    assert read_cifar10(cifar_folder).fingerprint(samples) != before


def test_labels_that_differ_from_the_listed_ones_are_detected(cifar_folder, batches, write_python2):
    samples = read_cifar10(cifar_folder).samples()
    write_python2(cifar_folder / "test_batch", batches["test_batch"] | {b"labels": [2, 1, 0]})

    with pytest.raises(UserError, match="the raw files have changed since"):
        read_cifar10(cifar_folder).fingerprint(samples)


def test_real_files_have_the_pixels_of_a_plain_read(cifar_mini, batches, all_images):
    source = read_cifar10(cifar_mini)
    real = []
    for name in batches:
        with (cifar_mini / name).open("rb") as file:
            real.append(pickle.load(file, encoding="bytes"))

    images = all_images(source, 32)
    samples = source.samples()

    pixels = np.concatenate([batch[b"data"] for batch in real])
    assert len(images) == len(samples) == 1900
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(-1, 3072), pixels)
    assert samples["label"].tolist() == [label for batch in real for label in batch[b"labels"]]
    assert source.classes[:2] == ("airplane", "automobile")
    assert "batches.meta" not in find_unpublished_files(cifar_mini)


def test_unpublished_files_are_read_with_a_warning(cifar_folder, caplog):
    source = open_cifar10(cifar_folder)

    assert len(source.samples()) == 23
    assert "data_batch_1" in caplog.text
    assert "differ from the published CIFAR-10" in caplog.text


def test_a_missing_batch_is_named(cifar_folder):
    (cifar_folder / "data_batch_4").unlink()

    with pytest.raises(UserError, match="lacks data_batch_4; put"):
        open_cifar10(cifar_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0, 1, 2]}, r"shape \(3, 3072\)"),
        ({b"labels": [0, 1, 2, 3]}, "label 3, of 3 classes"),
        ({b"labels": [0, 1, 2, -1]}, "label -1, but labels start at 0"),
        ({b"labels": None}, "labels is not a list of integers"),
        ({b"labels": [0, [1], 2, 0]}, "labels is not a list of integers"),
        ({b"data": np.zeros((4, 3071), np.uint8)}, r"shape \(4, 3072\)"),
        ({b"data": np.zeros((4, 3072), np.float32)}, "uint8"),
        ({b"data": b"pixels"}, "uint8"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "labels"),
    ],
)
def test_a_damaged_batch_is_named(cifar_folder, batches, write_python2, change, message):
    write_python2(cifar_folder / "data_batch_3", batches["data_batch_3"] | change)

    with pytest.raises(UserError, match=f"data_batch_3 is damaged: .*{message}"):
        list(read_cifar10(cifar_folder).images(None, 32))


def test_a_cut_off_batch_is_named(cifar_folder):
    path = cifar_folder / "test_batch"
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(UserError, match="test_batch is damaged"):
        read_cifar10(cifar_folder)


@pytest.mark.parametrize("names", [None, [], [1, 2]])
def test_damaged_class_names_are_named(cifar_folder, write_python2, names):
    write_python2(cifar_folder / "batches.meta", {b"label_names": names})

    with pytest.raises(UserError, match=r"batches\.meta is damaged"):
        read_cifar10(cifar_folder)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(cifar_folder, tmp_path, monkeypatch):
    """Make torchvision download the small files, in an archive, from a local server."""
    archive = tmp_path / "published.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(cifar_folder, "cifar-10-batches-py")
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", digest)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield archive
        server.shutdown()


def test_an_absent_folder_is_downloaded(publisher, data_config, tmp_path):
    folder = tmp_path / "data/01_raw/cifar"

    source = open_source(data_config(source="cifar10", folder="data/01_raw/cifar"), tmp_path)

    assert len(source.samples()) == 23
    assert [path.name for path in folder.parent.iterdir()] == ["cifar"]  # nothing else is left


def test_a_damaged_download_leaves_nothing(publisher, tmp_path):
    publisher.write_bytes(publisher.read_bytes()[:-10])
    folder = tmp_path / "raw/cifar"

    with pytest.raises(UserError, match="could not be downloaded"):
        open_cifar10(folder)

    assert list(folder.parent.iterdir()) == []


def test_downloads_at_once_do_not_disturb_each_other(publisher, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "raw/cifar"

    with ThreadPoolExecutor(4) as pool:
        sources = list(pool.map(open_cifar10, [folder] * 4))

    assert [len(source.samples()) for source in sources] == [23] * 4
    assert [path.name for path in folder.parent.iterdir()] == ["cifar"]
    assert sum(line.startswith("Downloading CIFAR-10") for line in caplog.messages) == 1


def test_without_a_network_the_message_names_files_and_folder(tmp_path, batches, monkeypatch):
    def refuse(*args, **kwargs):
        assert socket.getdefaulttimeout() == cifar10._NETWORK_TIMEOUT_S
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    folder = tmp_path / "raw/cifar"

    with pytest.raises(UserError) as error:
        open_cifar10(folder)

    message = str(error.value)
    assert "\n" not in message
    assert "no route to host" in message
    assert all(name in message for name in [*batches, "batches.meta", str(folder)])
    assert not folder.exists()
    assert socket.getdefaulttimeout() is None
