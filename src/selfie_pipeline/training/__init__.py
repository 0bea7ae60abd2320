"""Training: batches, schedule, the training loop, and where it runs.

A batch is a pure function of (seed, step): which samples, which crop and mirror, which patches are
masked, which units drop. No state but the step is needed to go on with a training.
"""
