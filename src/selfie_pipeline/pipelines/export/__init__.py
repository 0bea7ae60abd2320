"""Pipeline from a classifier to files for use outside this project."""
