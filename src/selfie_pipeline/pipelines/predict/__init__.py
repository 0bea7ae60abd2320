"""Pipeline from image files and a classifier to predictions."""
