"""The report: figures, the results table as text, the HTML page and the model card."""
