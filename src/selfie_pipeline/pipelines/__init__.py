"""Kedro pipelines and their nodes, which check inputs and call the other packages."""
