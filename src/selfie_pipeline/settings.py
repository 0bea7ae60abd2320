"""Kedro's settings of this project."""

from selfie_pipeline.hooks import ProjectHooks

HOOKS = (ProjectHooks(),)

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment overrides single values of a group, not the whole group.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
    "custom_resolvers": {"percent": lambda fraction: f"{100 * float(fraction):g}"},
}
