"""The stages as Kedro pipelines.

Kedro lives here and only here; nodes check, call and name outputs.
"""
