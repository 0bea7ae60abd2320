"""Scores, statistics, tables, figures, report; nothing here knows how a model was trained."""
