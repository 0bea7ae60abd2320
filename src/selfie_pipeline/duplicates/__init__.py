"""Duplicates: hashes of images, and the search for images that are in two splits."""
