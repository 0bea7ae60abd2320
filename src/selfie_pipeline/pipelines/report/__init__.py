"""Pipeline from results to tables, figures and an HTML page."""
