"""From an encoder and labels to finetuning's best parameters, on held-out training samples."""
