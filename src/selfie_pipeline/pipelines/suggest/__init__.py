"""Pipeline from a finetuned classifier to the images most worth labeling."""
