"""Kedro's settings for this project."""

from selfie_pipeline.config_loader import ProjectConfigLoader
from selfie_pipeline.hooks import ProjectHooks
from selfie_pipeline.paths import percent, pretraining_folder, short_hash, variant_folder
from selfie_pipeline.tracking import tracking_hooks

# Kedro calls the last hook first, so a run that is refused is not tracked.
HOOKS = (*tracking_hooks(), ProjectHooks())

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # Let an environment override single values of a group instead of the entire group.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
    "custom_resolvers": {
        "percent": percent,
        "pretraining_folder": pretraining_folder,
        "short_hash": short_hash,
        "variant_folder": variant_folder,
    },
}
