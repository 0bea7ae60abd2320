"""The search for the best finetuning parameters of an arm and a labeled fraction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import scipy

from selfie_pipeline.config import Arm, TuneConfig
from selfie_pipeline.provenance import hash_json

if TYPE_CHECKING:
    import optuna  # an extra


class SearchResult(TypedDict):
    """The result of a search: an entry of `best_settings`.

    Attributes:
        study: Name of the search, which identifies everything that its trials depend on.
        arm: Arm that was searched for.
        labeled_frac: Labeled fraction that was searched for.
        settings: The best values of the parameters of `finetune`, by name.
        validation_accuracy: Accuracy with these values, a fraction.
        trials: Number of completed and pruned trials.
        setup: Name of the search, whichever images the encoder was pretrained on; files of earlier
            versions lack it.
    """

    study: str
    arm: Arm
    labeled_frac: float
    settings: dict[str, float]
    validation_accuracy: float
    trials: int
    setup: NotRequired[str]


@dataclass(frozen=True)
class Search:
    """The search for one arm and labeled fraction.

    The lineage, from `lineage.classifier_lineage`, is that of classifiers with the recipe's own
    values.
    """

    arm: Arm
    labeled_frac: float
    lineage: dict[str, Any]
    tune: TuneConfig

    @property
    def study_name(self) -> str:
        """The name of its study, which changes with anything that its trials depend on.

        The number of trials is not part of it, so that a search can be extended.
        """
        return self._name(self.lineage)

    @property
    def study_name_any_images(self) -> str:
        """The name that searches share whose encoders differ in their images alone."""
        configuration = dict(self.lineage["configuration"])
        if "pretrain" in configuration:
            configuration["pretrain"] = configuration["pretrain"] | {"images": None}
        any_images = {"configuration": configuration, "encoder": None, "pretraining_images": None}
        return self._name(self.lineage | any_images)

    def _name(self, lineage: dict[str, Any]) -> str:
        fixed = hash_json({**lineage, "tune": self.tune.model_dump(exclude={"trials"})})
        return f"{self.arm}, {100 * self.labeled_frac:g} %, {fixed[:12]}"

    def find_settings(self, results: Iterable[SearchResult]) -> dict[str, float]:
        """Return the best values among the results of searches; none if this one was not made.

        An encoder of fewer images takes those of the encoder of all images, so that `ratio`
        compares the same finetuning.
        """
        key, name = "study", self.study_name
        if self.lineage["configuration"].get("pretrain", {}).get("images") is not None:
            key, name = "setup", self.study_name_any_images
        return next((each["settings"] for each in results if each.get(key) == name), {})

    def initial_settings(self, number: int) -> dict[str, float]:
        """Return the values of one of the first trials, which do not depend on others' scores.

        The first has the recipe's own, the others are spread evenly over the ranges (Halton).
        """
        if number == 0:
            recipe = self.lineage["configuration"]["finetune"]
            return {name: recipe[name] for name in self.tune.space}
        halton = scipy.stats.qmc.Halton(len(self.tune.space), rng=self.tune.seed)
        shares = halton.fast_forward(number - 1).random()[0]  # (parameters,)
        return {
            name: float(interval.at(share))
            for (name, interval), share in zip(self.tune.space.items(), shares, strict=True)
        }

    def suggest(self, trial: optuna.Trial) -> dict[str, float]:
        """Suggest the values of a trial."""
        return {
            name: trial.suggest_float(name, interval.low, interval.high, log=interval.log)
            for name, interval in self.tune.space.items()
        }
