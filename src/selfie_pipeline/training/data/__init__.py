"""Training data: reproducible batches, augmentation, prefetching and labeled subsets."""
