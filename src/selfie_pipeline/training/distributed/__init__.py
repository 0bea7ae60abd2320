"""Distributed training: process groups, synchronised BatchNorm, and runs on a Ray cluster.

Only the modules `cluster`, `driver`, `ray_jobs` and `worker` import Ray, an optional dependency.
"""
