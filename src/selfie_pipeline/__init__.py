"""Selfie: self-supervised pretraining for image embedding, as a Kedro project."""

__version__ = "0.2.0"
