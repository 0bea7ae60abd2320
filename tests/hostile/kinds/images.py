"""Bad image files: every format that Pillow writes, in every mode, damaged, and bombs."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from tests.hostile.damage import damaged_bytes
from tests.hostile.inputs import Input, Kind, WrongResultError

from selfie_pipeline.sources.decoding import UnreadableImageError, decode_chunks, decode_file

_CANVAS = 32
Image.init()
_FORMATS = sorted(Image.SAVE)
_ALLOWED = {"JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "HEIF"}
_LOSSLESS = {"PNG", "BMP", "DIB", "TIFF", "PPM"}
_MODES = ["RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F"]
_ANIMATED = sorted(set(Image.SAVE_ALL) & _ALLOWED - {"AVIF"})  # libavif crashes on some of these
_SIDES = st.sampled_from([1, 2, 3, 31, 32, 33, 64, 100])
_TIFF_COMPRESSIONS = [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "zstd"]


def _picture(mode: str, width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., :2].copy().view("<u2")[..., 0])
    if mode in {"LAB", "HSV", "PA"}:
        return (
            Image.fromarray(pixels[..., :3])
            .convert("L" if mode == "PA" else "RGB")
            .convert({"PA": "PA", "HSV": "HSV", "LAB": "RGB"}[mode])
        )
    return Image.fromarray(pixels, "RGBA").convert(mode)


def _exif(orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a picture"
    return exif.tobytes()


@st.composite
def _saved(draw: st.DrawFn) -> tuple[bytes, str, str, Image.Image]:
    """Generate a file: its bytes, its format, a description, and the picture."""
    name, mode = draw(st.sampled_from(_FORMATS)), draw(st.sampled_from(_MODES))
    picture = _picture(mode, draw(_SIDES), draw(_SIDES), draw(st.integers(0, 2**32 - 1)))
    options: dict[str, object] = {}
    if name in {"JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"} and draw(st.booleans()):
        options["exif"] = draw(
            st.one_of(
                st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535]).map(_exif),
                st.binary(max_size=100),
            )
        )
    if name == "TIFF":
        options["compression"] = draw(st.sampled_from(_TIFF_COMPRESSIONS))
    if name == "JPEG":
        options["progressive"] = draw(st.booleans())
        options["quality"] = draw(st.integers(1, 100))
    if name in _ANIMATED and draw(st.integers(0, 3)) == 0:
        others = [_picture(mode, *picture.size, seed) for seed in range(draw(st.integers(1, 5)))]
        options |= {"save_all": True, "append_images": others}
    for attempt in (options, {}):
        for fallback in (picture, picture.convert("RGB"), picture.convert("L")):
            file = io.BytesIO()
            try:
                fallback.save(file, name, **attempt)
            except Exception:  # not every plugin writes every mode, and some need a library
                continue
            if file.getvalue():
                what = f"{name}, {fallback.mode}, {', '.join(map(str, attempt))}"
                return file.getvalue(), name, what, fallback
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG")
    return file.getvalue(), "PNG", "PNG, RGB", picture.convert("RGB")


@st.composite
def _intact(draw: st.DrawFn) -> Input:
    content, name, what, _ = draw(_saved())
    return Input(what, {"image": content}, "intact", "accepted" if name in _ALLOWED else "refused")


@st.composite
def _damaged(draw: st.DrawFn) -> Input:
    content, _, what, _ = draw(_saved())
    for _ in range(draw(st.sampled_from([1, 1, 2, 5]))):
        content, how = draw(damaged_bytes(content)) if content else (content, "empty")
    return Input(f"{what}, {how}", {"image": content})


@st.composite
def _cut_off(draw: st.DrawFn) -> Input:
    """Generate a truncated file; it may only be accepted if no pixel is missing."""
    content, _, what, _ = draw(_saved())
    end = draw(st.integers(0, len(content) - 1))
    return Input(
        f"{what}, cut off at {end} of {len(content)}",
        {"image": content[:end], "whole": content},
        "cut off",
    )


@st.composite
def _exact(draw: st.DrawFn) -> Input:
    """Generate a picture of the canvas's size in a lossless format; its pixels must not change."""
    name = draw(st.sampled_from(sorted(_LOSSLESS)))
    picture = _picture("RGB", _CANVAS, _CANVAS, draw(st.integers(0, 2**32 - 1)))
    file = io.BytesIO()
    picture.save(file, name)
    return Input(f"{name}, exact", {"image": file.getvalue()}, picture.tobytes(), "accepted")


@cache
def _zeros(row: int, rows: int) -> bytes:
    """Return deflated rows of zeros, quickly, because a deflated block can be repeated."""
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(100 * row)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = block[2:]  # without zlib's header
    rest = zlib.compressobj(9, wbits=-15)
    end = rest.compress(bytes(rows % 100 * row)) + rest.flush()
    checksum = (rows * row % 65521) << 16 | 1  # Adler-32
    return b"\x78\xda" + block * (rows // 100) + end + struct.pack(">I", checksum)


def _png(width: int, height: int, depth: int, colour: int, rows: int) -> bytes:
    """Return a PNG of zeros with this header, of which only the first rows are stored."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    pixels = _zeros(1 + width * channels * depth // 8, rows) if rows else zlib.compress(b"")
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    if colour == 3:
        chunks.insert(1, (b"PLTE", bytes(range(255)) * 3))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


_PNG_TYPES = {
    "grey": (0, 8),
    "16-bit grey": (0, 16),
    "RGB": (2, 8),
    "palette": (3, 8),
    "grey and alpha": (4, 8),
    "RGBA": (6, 8),
    "16-bit RGBA": (6, 16),
}


@st.composite
def _bombs(draw: st.DrawFn) -> Input:
    """Generate a small PNG of very many pixels."""
    name = draw(st.sampled_from(sorted(_PNG_TYPES)))
    width, height = draw(st.sampled_from([(13_000, 13_000), (9_400, 9_400), (20_000, 20_000)]))
    colour, depth = _PNG_TYPES[name]
    content = _png(width, height, depth, colour, height)
    return Input(f"PNG, {name}, {width} × {height}, {len(content):,} bytes", {"image": content})


@st.composite
def _long(draw: st.DrawFn) -> Input:
    """Generate a picture that is one or two pixels high or wide."""
    size = draw(st.sampled_from([(60_000, 1), (1, 60_000), (16_000, 2)]))
    mode = draw(st.sampled_from(["RGB", "RGBA", "L", "P", "I;16"]))
    file = io.BytesIO()
    _picture(mode, *size, 0).save(file, "PNG")
    return Input(f"PNG, {mode}, {size}", {"image": file.getvalue()}, "intact", "accepted")


@st.composite
def _lying_headers(draw: st.DrawFn) -> Input:
    """Generate a file whose header announces more pixels than it has."""
    width, height = (draw(st.sampled_from([0, 1, 9_000, 13_000, 2**16, 2**31 - 1])) for _ in "wh")
    name = draw(st.sampled_from(["PNG", "PPM", "PGM16", "PBM", "BMP", "GIF"]))
    if name == "PNG":
        colour, depth = draw(st.sampled_from([(0, 8), (0, 16), (2, 8), (3, 8), (4, 8), (6, 16)]))
        content = _png(width, height, depth, colour, 0)
    elif name == "BMP":
        content = struct.pack(
            "<2sIHHIIiiHHIIiiII",
            b"BM",
            99,
            0,
            0,
            54,
            40,
            width,
            height,
            1,
            draw(st.sampled_from([1, 4, 8, 16, 24, 32])),
            draw(st.sampled_from([0, 1, 2, 3])),
            0,
            0,
            0,
            0,
            0,
        )
    elif name == "GIF":
        content = struct.pack("<6sHHBBB", b"GIF89a", width & 0xFFFF, height & 0xFFFF, 0x80, 0, 0)
        content += bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, width & 0xFFFF, height & 0xFFFF, 0)
        content += b"\x02\x02\x4c\x01\x00;"
    else:
        magic, largest = {"PPM": ("P6", "\n255"), "PGM16": ("P5", "\n65535"), "PBM": ("P4", "")}[
            name
        ]
        content = f"{magic}\n{width} {height}{largest}\n".encode()
    content += bytes(draw(st.sampled_from([0, 10, 5_000])))
    return Input(f"{name} header of {width} × {height}", {"image": content})


def _decode(item: Input, folder: Path) -> None:
    path = folder / "input" / "image"
    pixels, _ = decode_file(path, _CANVAS)
    if pixels.dtype != np.uint8 or pixels.shape != (_CANVAS, _CANVAS, 3):
        raise WrongResultError(f"{pixels.dtype} of shape {pixels.shape}")
    if isinstance(item.value, bytes) and pixels.tobytes() != item.value:
        raise WrongResultError("the pixels are others")
    whole = folder / "input" / "whole"
    if item.value == "cut off" and not np.array_equal(pixels, decode_file(whole, _CANVAS)[0]):
        raise WrongResultError("accepted without the pixels that were cut off")
    if item.value == "intact":
        content = io.BytesIO(path.read_bytes())
        size = path.stat().st_size
        (chunk,) = decode_chunks([(content, size)], lambda file: file, _CANVAS)
        if not np.array_equal(chunk.images[0], pixels):
            raise WrongResultError("other pixels in a thread")


KINDS = [
    Kind(f"images/{name}", inputs, _decode, refusals=(UnreadableImageError,), share=share)
    for name, inputs, share in (
        ("intact", st.one_of(_intact(), _exact(), _long()), 30),
        ("damaged", _damaged(), 80),
        ("cut off", _cut_off(), 30),
        ("lying headers", _lying_headers(), 20),
        ("bombs", _bombs(), 2),
    )
]
