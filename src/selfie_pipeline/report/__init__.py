"""Figures, results tables as text, the HTML page and the model card."""
