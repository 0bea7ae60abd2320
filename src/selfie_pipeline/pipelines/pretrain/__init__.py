"""From patch grids to an encoder, without labels."""
