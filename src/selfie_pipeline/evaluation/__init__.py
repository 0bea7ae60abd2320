"""Scores, statistics and tables of results, independent of how a model was trained."""
