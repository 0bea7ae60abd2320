"""Catalog types of our own: whole or absent versions of files, weights and patch grids."""
