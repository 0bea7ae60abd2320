"""Pipelines from an encoder and labels to the cells of a grid and their report."""
