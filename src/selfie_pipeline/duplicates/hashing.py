"""Hashes of images, and the similarity of their details.

The perceptual hash pHash (Zauner, 2010), 64 bits, differs in few bits for two versions of one
picture. It has the signs of the coarse frequencies, so different pictures of the same layout may
share it; the details tell them apart. Digests, also of 64 bits, are equal for equal pixels only.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn, irfft2, rfft2

_SIDE = 32
_COARSE = 8
"""Number of the lowest frequencies along each axis that pHash has."""
_LEAST_DETAIL = 0.04
"""Share of the variance that the details must have to tell pictures apart: 99 % of CIFAR-10's test
images have more (tests: 0.048), the 8×8 digits at most 0.03."""
_GREY = np.array([19595, 38470, 7471], dtype=np.uint32)
"""Weights of red, green and blue in 2**-16, as in Pillow's conversion (ITU-R BT.601)."""
_SHIFT = 2
"""Largest shift between two versions of a picture, in 32nds of its side."""
# An orthonormal transform's first row and column, in units of those of an unnormalised one.
_FIRST = np.where(np.arange(_COARSE) == 0, np.sqrt(2), 1).astype(np.float32)


class ImageHashes(NamedTuple):
    """The hashes of n images.

    Attributes:
        codes: (n,) uint64; pHash.
        detailed: (n,) bool; False if an image has too few details to tell it from others.
    """

    codes: NDArray[np.uint64]
    detailed: NDArray[np.bool_]


def hash_images(images: NDArray[np.uint8]) -> ImageHashes:
    """Compute the hashes of images, (n, H, W, 3) uint8, RGB; n is at least 1."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (n, 3, H, W), as they are stored
    frequencies = _transform(planes)  # (n, 32, 32)
    coarse = frequencies[:, :_COARSE, :_COARSE] * np.outer(_FIRST, _FIRST)  # (n, 8, 8)
    coarse = coarse.reshape(len(images), -1)  # (n, 64)
    bits = coarse > np.median(coarse, axis=1, keepdims=True)  # (n, 64)
    frequencies[:, 0, 0] = 0  # the mean
    variance = np.square(frequencies).sum(axis=(1, 2))  # (n,)
    details = np.square(_drop_coarse(frequencies)).sum(axis=(1, 2))  # (n,)
    return ImageHashes(
        codes=np.packbits(bits, axis=1).view(np.uint64)[:, 0],  # (n,)
        detailed=details > _LEAST_DETAIL * variance,
    )


def digest_images(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Compute digests of the pixels of images, (n, H, W, 3) uint8; n is at least 1."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (n, 3, H, W), as they are stored
    digests = [hashlib.sha256(image).digest()[:8] for image in planes]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def extract_details(images: NDArray[np.uint8]) -> NDArray[np.complex64]:
    """Compute the Fourier transforms of the images' details, of length 1.

    Args:
        images: (n, H, W, 3) uint8, RGB.

    Returns:
        (n, 32, 17) complex64; zeros for an image without details.
    """
    planes = images.transpose(0, 3, 1, 2)  # (n, 3, H, W)
    details = idctn(_drop_coarse(_transform(planes)), axes=(1, 2), norm="ortho")  # (n, 32, 32)
    length = np.sqrt(np.square(details).sum(axis=(1, 2), keepdims=True))  # (n, 1, 1)
    spectra: NDArray[np.complex64] = rfft2(details / np.maximum(length, 1e-3))  # (n, 32, 17)
    return spectra


def compare_details(
    first: NDArray[np.complex64], second: NDArray[np.complex64]
) -> NDArray[np.float32]:
    """Compute the correlation between details, at the best of some small shifts.

    Args:
        first: (n, 32, 17), from `extract_details`.
        second: Those to compare them with, each with that in the same place.

    Returns:
        (n,) float32, from -1 to 1.
    """
    correlations = irfft2(first * second.conj())  # (n, 32, 32): at each circular shift
    shifts = np.arange(-_SHIFT, _SHIFT + 1)
    best: NDArray[np.float32] = correlations[:, shifts[:, None], shifts].max(axis=(1, 2))  # (n,)
    return np.minimum(best, 1)


def _transform(planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the orthonormal cosine transforms of images in 32×32 grey pixels, (n, 32, 32).

    Args:
        planes: (n, 3, H, W), RGB.
    """
    import torch  # noqa: PLC0415  (seconds to import)

    # In one call, which releases Python's lock; a call for each image keeps other threads waiting.
    small = torch.nn.functional.interpolate(
        torch.from_numpy(planes), (_SIDE, _SIDE), mode="bicubic", antialias=True
    )  # (n, 3, 32, 32)
    weighted = small.numpy() * _GREY[:, None, None]  # (n, 3, 32, 32)
    grey = (weighted.sum(axis=1, dtype=np.uint32) + 2**15) >> 16  # (n, 32, 32), rounded
    frequencies: NDArray[np.float32] = dctn(grey.astype(np.float32), axes=(1, 2), norm="ortho")
    return frequencies


def _drop_coarse(frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return frequencies (n, 32, 32) without the coarse ones."""
    details = frequencies.copy()
    details[:, :_COARSE, :_COARSE] = 0
    return details
