"""Dataset type of figures, in a module of its own since matplotlib takes a second to import."""

from __future__ import annotations

from kedro_datasets.matplotlib.matplotlib_dataset import MatplotlibDataset

from selfie_pipeline.datasets.atomic import AtomicSaveMixin


class AtomicFigureDataset(AtomicSaveMixin, MatplotlibDataset):
    """A matplotlib figure as an image file; saving closes all pyplot figures."""
