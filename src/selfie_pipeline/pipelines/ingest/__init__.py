"""Pipeline from raw files to a checked table of samples."""
