"""Trainings on a Ray cluster. Nothing else imports Ray, and this only with `compute.engine=ray`.

`connection` finds the cluster and what it holds, `training` spreads one training over workers,
`worker` is what each of them does, `board` is where they and the driver meet, and `chains` runs
many small things side by side.
"""
