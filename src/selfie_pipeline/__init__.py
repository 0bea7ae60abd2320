"""Selfie: self-supervised pretraining for image embedding, as a Kedro project."""

__version__ = "0.1.0"
