"""From raw files to patch grids."""
