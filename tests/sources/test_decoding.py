"""Tests of decoding image files, and of the ordered threaded map."""

import io
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from selfie_pipeline.sources import decoding
from selfie_pipeline.sources.base import fit_image
from selfie_pipeline.sources.decoding import (
    UnreadableImageError,
    decode_chunks,
    decode_file,
    has_image_extension,
    map_files,
    map_ordered,
)

SIDE = 16
# Like a small photograph: smooth, asymmetric, with a red, a green and a blue corner
ROWS, COLUMNS = np.mgrid[0:48, 0:64]
PIXELS = np.stack([4 * COLUMNS, 5 * ROWS, 255 - 2 * (ROWS + COLUMNS)], axis=-1)
PICTURE = Image.fromarray(PIXELS.clip(0, 255).astype(np.uint8))
GREY = PICTURE.convert("L")


def fitted(image):
    return fit_image(np.array(image), SIDE).astype(int)


def decoded(path):
    image, _ = decode_file(path, SIDE)
    assert image.shape == (SIDE, SIDE, 3)
    assert image.dtype == np.uint8
    return image.astype(int)


def decode_or_explain(path):
    try:
        return decode_file(path, SIDE)[0]
    except UnreadableImageError as error:
        return str(error)


def decode_all(paths):
    return list(map_ordered(decode_or_explain, paths))


def save(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return path


SIXTEEN_BITS = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("name", "image", "looks_like", "options", "tolerance"),
    [
        ("a.png", PICTURE, PICTURE, {}, 0),
        ("a.bmp", PICTURE, PICTURE, {}, 0),
        ("a.tif", PICTURE, PICTURE, {}, 0),
        ("a.ppm", PICTURE, PICTURE, {}, 0),
        ("a.webp", PICTURE, PICTURE, {"lossless": True}, 0),
        ("a.jpg", PICTURE, PICTURE, {"quality": 98}, 8),
        ("progressive.jpg", PICTURE, PICTURE, {"quality": 98, "progressive": True}, 8),
        ("a.avif", PICTURE, PICTURE, {"quality": 95}, 16),
        ("a.heic", PICTURE, PICTURE, {"quality": 95}, 16),
        ("a.gif", PICTURE, PICTURE, {}, 40),
        ("grey.jpg", GREY, GREY.convert("RGB"), {"quality": 98}, 8),
        ("grey.png", GREY, GREY.convert("RGB"), {}, 0),
        ("cmyk.jpg", PICTURE.convert("CMYK"), PICTURE, {"quality": 98}, 12),
        ("palette.png", PICTURE.quantize(256), PICTURE, {}, 40),
        ("one bit.png", GREY.convert("1"), GREY.convert("1").convert("RGB"), {}, 0),
        ("16 bits.png", SIXTEEN_BITS, GREY.convert("RGB"), {}, 0),
        ("16 bits.tiff", SIXTEEN_BITS, GREY.convert("RGB"), {}, 0),
        ("32 bits.tiff", SIXTEEN_BITS.convert("I"), GREY.convert("RGB"), {}, 0),
        ("opaque.png", PICTURE.convert("RGBA"), PICTURE, {}, 0),
        ("HEAD", PICTURE, PICTURE, {"format": "PNG"}, 0),
        ("wrong.JPEG", PICTURE, PICTURE, {"format": "PNG"}, 0),
        ("wrong.txt", PICTURE, PICTURE, {"format": "BMP"}, 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_any_kind_become_rgb(tmp_path, name, image, looks_like, options, tolerance):
    path = save(tmp_path, image, name, **options)

    assert abs(decoded(path) - fitted(looks_like)).max() <= tolerance


def test_transparent_pixels_become_white(tmp_path):
    image = PICTURE.convert("RGBA")
    image.putalpha(0)

    assert (decoded(save(tmp_path, image, "a.png")) == 255).all()


def test_the_transparent_grey_of_sixteen_bits_becomes_white(tmp_path):
    image = Image.fromarray(np.full((8, 8), 1280, np.uint16))

    assert (decoded(save(tmp_path, image, "a.png")) == 5).all()
    assert (decoded(save(tmp_path, image, "b.png", transparency=1280)) == 255).all()


def test_of_several_frames_the_first_is_decoded(tmp_path):
    more = [Image.new("RGB", PICTURE.size, "red")] * 2

    path = save(tmp_path, GREY, "a.gif", save_all=True, append_images=more)

    assert abs(decoded(path) - fitted(GREY.convert("RGB"))).max() <= 8


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "WEBP", "PNG", "AVIF", "HEIF"])
def test_images_of_several_frames_are_counted_in_one_log_line(format_, caplog):
    caplog.set_level("INFO")
    file, single = io.BytesIO(), io.BytesIO()
    PICTURE.save(file, format_, save_all=True, append_images=[GREY.convert("RGB")])
    PICTURE.save(single, format_)

    files = [each.getvalue() for each in (single, file, single, file)]
    (chunk,) = decode_chunks([(file, len(file)) for file in files], io.BytesIO, SIDE)

    assert abs(chunk.images.astype(int) - fitted(PICTURE)).max() <= 40
    assert caplog.messages == ["2 images have several frames or pages: the first is used"]


def test_images_of_fewer_than_16_bits_in_16_are_named(caplog):
    """As microscopes write them."""
    files = []
    for largest in (2**12 - 1, 2**16 - 1, 2**12 - 1):
        file = io.BytesIO()
        ramp = np.linspace(0, largest, 64, dtype=np.uint16).reshape(8, 8)
        Image.fromarray(ramp).save(file, "TIFF")
        files.append(file.getvalue())

    (chunk,) = decode_chunks([(file, len(file)) for file in files], io.BytesIO, SIDE)

    assert chunk.images[0].max() < 16
    assert chunk.images[1].max() > 200
    (line,) = caplog.messages
    assert line.startswith("2 images of 16 bits have no value above 16383, so they become dark")


def test_a_photograph_with_a_preview_beside_it_has_one_frame(caplog):
    caplog.set_level("INFO")
    file = io.BytesIO()
    PICTURE.save(file, "MPO", save_all=True, append_images=[PICTURE.resize((16, 12))])

    (chunk,) = decode_chunks([(file, len(file.getvalue()))], lambda file: file, SIDE)

    assert not chunk.unreadable
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "missing", "reason"),
    [
        (
            "a.heic",
            "pillow_heif",
            'is HEIC; to read it: `pip install --constraint constraints.txt --editable ".[heif]"`',
        ),
        ("a.avif", "PIL._avif", "is AVIF; install a Pillow that decodes it: pip install -U pillow"),
    ],
)
def test_an_image_that_needs_something_else_names_it(tmp_path, name, missing, reason):
    path = save(tmp_path, PICTURE, name)
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from selfie_pipeline.sources.decoding import UnreadableImageError, decode_file\n"
        f"try: decode_file(open({str(path)!r}, 'rb'), 16)\n"
        "except UnreadableImageError as error: print(error)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{reason}\n"


def test_a_damaged_heic_file_does_not_blame_the_extra(tmp_path):
    path = save(tmp_path, PICTURE, "a.heic")
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(UnreadableImageError, match=r"^(damaged: .+|not an image)$"):
        decode_file(path, SIDE)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, PICTURE),
        (2, PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        (3, PICTURE.transpose(Image.Transpose.ROTATE_180)),
        (6, PICTURE.transpose(Image.Transpose.ROTATE_90)),
        (8, PICTURE.transpose(Image.Transpose.ROTATE_270)),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, stored, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {}

    path = save(tmp_path, stored, name, exif=exif, **options)

    assert np.array_equal(decoded(path), fitted(PICTURE))


def test_damaged_exif_is_ignored_without_a_warning(tmp_path):
    path = save(tmp_path, PICTURE, "a.jpg", quality=98, exif=b"Exif\0\0II*\0garbage garbage")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (pixels,) = decode_all([path])
    assert abs(pixels.astype(int) - fitted(PICTURE)).max() <= 8


@pytest.mark.parametrize(
    ("size", "decoded_size"),
    [
        ((1280, 960), (160, 120)),  # an eighth, which is more than twice the canvas
        ((256, 256), (32, 32)),  # an eighth, exactly twice the canvas
        ((248, 248), (62, 62)),  # a quarter
    ],
)
def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(
    tmp_path, monkeypatch, size, decoded_size
):
    sizes = []
    monkeypatch.setattr(
        decoding,
        "fit_image",
        lambda image, size: sizes.append(image.shape[1::-1]) or fit_image(image, size),
    )
    large = PICTURE.resize(size, Image.Resampling.BICUBIC)
    path = save(tmp_path, large, "a.jpg", quality=95)

    pixels = decoded(path)

    assert sizes == [decoded_size]
    assert abs(pixels - fitted(large)).max() <= 4


def test_a_large_image_is_resized_without_a_copy_and_alike(tmp_path, monkeypatch):
    path = save(tmp_path, PICTURE.resize((300, 201)), "a.png")
    expected = decoded(path)
    monkeypatch.setattr(decoding, "_MOST_COPIED_PIXELS", 300 * 201 - 1)
    monkeypatch.setattr(decoding, "fit_image", None)

    assert abs(decoded(path) - expected).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4000, 3), (3, 4000)])
def test_of_a_tiny_or_long_image_the_centre_fills_the_canvas(tmp_path, size):
    image = PICTURE.resize(size)

    assert abs(decoded(save(tmp_path, image, "a.png")) - fitted(image)).max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>404 Not Found</html>", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_the_reason_names_files_that_are_not_images(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)

    for file in (path, io.BytesIO(content)):
        with pytest.raises(UnreadableImageError, match=f"^{reason}$"):
            decode_file(file, SIDE)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif"])
def test_a_truncated_file_is_damaged(tmp_path, name):
    path = save(tmp_path, PICTURE.resize((640, 480)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(UnreadableImageError, match=r"^(damaged: .+|not an image)$") as caught:
        decode_file(path, SIDE)
    assert "\n" not in str(caught.value)


def test_the_other_reasons_are_named(tmp_path, monkeypatch):
    with pytest.raises(UnreadableImageError, match="can't be read: No such file"):
        decode_file(tmp_path / "absent.jpg", SIDE)
    with pytest.raises(UnreadableImageError, match="floating-point"):
        decode_file(save(tmp_path, GREY.convert("F"), "a.tiff"), SIDE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="more than 89,478,485 pixels"):
        decode_file(save(tmp_path, PICTURE, "a.png"), SIDE)


@pytest.mark.filterwarnings("ignore:Image size")  # of Pillow, about both
def test_images_that_would_fill_the_memory_are_refused_but_not_large_photographs(tmp_path):
    large = Image.new("L", (12_000, 9_000))
    assert decode_file(save(tmp_path, large, "a.jpg"), SIDE)[0].shape == (SIDE, SIDE, 3)
    path = save(tmp_path, large, "a.png", compress_level=1)
    assert decode_file(path, SIDE)[0].shape == (SIDE, SIDE, 3)
    content, end = path.read_bytes(), 12  # bytes of the chunk IEND
    transparent = _chunk(b"tRNS", bytes(2))
    for late in (content[:33] + transparent + content[33:], content[:-end] + transparent):
        path.write_bytes(late + content[-end:])
        with pytest.raises(UnreadableImageError, match="more than 89,478,485 pixels"):
            decode_file(path, SIDE)
    with pytest.raises(UnreadableImageError, match="more than 89,478,485 pixels"):
        decode_file(save(tmp_path, large, "a.tif"), SIDE)
    with pytest.raises(UnreadableImageError, match="more than 150,000,000 pixels"):
        decode_file(save(tmp_path, Image.new("L", (15_001, 10_000)), "a.png"), SIDE)


def test_an_image_of_exactly_the_largest_number_of_pixels_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path, PICTURE, "a.bmp")
    monkeypatch.setattr(decoding, "_MOST_PIXELS", 64 * 48)
    assert np.array_equal(decoded(path), fitted(PICTURE))

    monkeypatch.setattr(decoding, "_MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(UnreadableImageError, match=r"^more than 3,071 pixels$"):
        decode_file(path, SIDE)


def _chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def test_results_and_errors_are_in_the_order_of_the_files(tmp_path):
    paths = []
    for number in range(60):
        image = PICTURE.rotate(6 * number)
        paths.append(save(tmp_path, image, f"{number}.png"))
    paths[7].write_bytes(b"")
    paths[59].unlink()

    results = decode_all(paths)

    assert len(results) == 60
    assert results[7] == "empty"
    assert results[59] == "can't be read: No such file or directory"
    for number in set(range(60)) - {7, 59}:
        assert np.array_equal(results[number], decode_or_explain(paths[number]))


def test_items_are_consumed_only_as_needed(monkeypatch):
    monkeypatch.setattr(decoding.joblib, "cpu_count", lambda: 2)
    consumed = []
    items = (consumed.append(number) or number for number in range(10_000))

    results = map_ordered(lambda number: number, items)

    assert next(results) == 0
    assert len(consumed) == 2 * 4 + 1  # 4 wait for each core
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    assert len(consumed) == 2 * 4 + 5
    results.close()
    assert len(consumed) == 2 * 4 + 5


def test_all_cores_are_used(monkeypatch):
    monkeypatch.setattr(decoding.joblib, "cpu_count", lambda: 3)
    barrier = threading.Barrier(3)

    assert list(map_ordered(lambda _: barrier.wait(timeout=10) < 3, range(6))) == [True] * 6


def test_large_files_are_read_in_parallel_one_a_call(monkeypatch):
    monkeypatch.setattr(decoding.joblib, "cpu_count", lambda: 3)
    barrier = threading.Barrier(3)

    results = map_files(lambda _: barrier.wait(timeout=10) < 3, [(n, 2**20) for n in range(6)])

    assert list(results) == [True] * 6


def test_small_files_are_read_in_parallel(monkeypatch):
    monkeypatch.setattr(decoding.joblib, "cpu_count", lambda: 3)
    barrier = threading.Barrier(3)
    files = [(number, 100) for number in range(3 * 16)]  # a batch for each thread

    results = map_files(lambda n: n % 16 > 0 or barrier.wait(timeout=10) < 3, files)

    assert list(results) == [True] * len(files)


def test_small_files_are_loaded_in_parallel_and_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding.joblib, "cpu_count", lambda: 3)
    barrier, decoding_now = threading.Barrier(3), threading.Lock()

    def load(number):
        if number % 16 == 0:
            barrier.wait(timeout=10)
        return io.BytesIO(b"")

    def decode(_file, side):
        assert decoding_now.acquire(blocking=False)
        time.sleep(0.001)
        decoding_now.release()
        return np.zeros((side, side, 3), dtype=np.uint8), []

    monkeypatch.setattr(decoding, "decode_file", decode)

    (chunk,) = decode_chunks([(number, 100) for number in range(3 * 16)], load, SIDE)

    assert len(chunk.images) == 3 * 16


def test_files_of_any_size_keep_their_order():
    sizes = np.random.default_rng(0).integers(0, 2**17, 200).tolist()

    results = list(map_files(lambda number: number, enumerate(sizes)))

    assert results == list(range(200))
    assert list(map_files(lambda number: number, [])) == []


def test_an_error_stops_the_map():
    def fail(number):
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ordered(fail, range(1000))

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("train/dog/a.JPEG", True),
        ("a.tif", True),
        ("a.webp", True),
        ("IMG_0001.HEIC", True),
        ("train/dog/._a.jpg", False),
        (".DS_Store", False),
        ("Thumbs.db", False),
        ("n0_boxes.txt", False),
        ("jpg", False),
    ],
)
def test_image_extensions_are_recognised(place, expected):
    assert has_image_extension(place) == expected
