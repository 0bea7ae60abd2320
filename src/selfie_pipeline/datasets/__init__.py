"""Catalog dataset types for files, weights and patch grids, with atomically written versions."""
