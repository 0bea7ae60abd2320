from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel

from selfie_pipeline.config import Config, UserError, load_config, parse_duration
from selfie_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"
ENVIRONMENTS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "base")


def refuse(parameters):
    with pytest.raises(UserError) as caught:
        load_config(parameters)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, UserError)
    return message


REFUSED = [  # key, value, part of the message after "KEY = VALUE"
    # Fractions
    ("labeled_frac", 0, "allowed: a number in (0, 1]"),
    ("labeled_frac", -0.1, "allowed: a number in (0, 1]"),
    ("labeled_frac", 1.01, "allowed: a number in (0, 1]"),
    ("labeled_frac", 5, "allowed: a number in (0, 1]"),
    ("labeled_frac", float("nan"), "allowed: a number in (0, 1]"),
    ("model.attention.dropout", 1.0, "allowed: a number in [0, 1)"),
    ("finetune.momentum", -0.9, "allowed: a number in [0, 1)"),
    # Wrong types
    ("labeled_frac", "a tenth", "allowed: a number in (0, 1]"),
    ("labeled_frac", "0.1", "allowed: a number in (0, 1]"),
    ("labeled_frac", None, "allowed: a number in (0, 1]"),
    ("seed", 1.5, "allowed: a whole number from 0 to 4294967295"),
    ("seed", True, "allowed: a whole number from 0 to 4294967295"),
    ("seed", -1, "allowed: a whole number from 0 to 4294967295"),
    ("pretrain.seed", 2**32, "allowed: a whole number from 0 to 4294967295"),
    ("pretrain.steps", "many", "allowed: a whole number, 1 or more"),
    ("augmentation.flip", 1, "allowed: true or false"),
    ("augmentation.pad", -1, "allowed: a whole number, 0 or more"),
    ("model.layers", [1, 1, 1], "allowed: a list of four whole numbers"),
    ("model.layers", 3, "allowed: a list of four whole numbers"),
    ("model.attention", 3, "allowed:"),
    ("patch", None, "allowed:"),
    # Times
    ("budget", 90, "allowed: a time above 0 such as 90s, 30min or 8h, or null"),
    ("budget", "an hour", "allowed: a time above 0 such as 90s, 30min or 8h, or null"),
    ("budget", "0s", "allowed: a time above 0 such as 90s, 30min or 8h, or null"),
    ("budget", "-5min", "allowed: a time above 0 such as 90s, 30min or 8h, or null"),
    # Out of range, or not one of the choices
    ("pretrain.steps", 0, "allowed: a whole number, 1 or more"),
    ("finetune.batch_size", 1, "allowed: a whole number, 2 or more"),
    ("finetune.peak_learning_rate", 0.0, "allowed: a number above 0"),
    ("finetune.peak_learning_rate", float("inf"), "allowed: a number above 0"),
    ("finetune.peak_learning_rate", float("nan"), "allowed: a number above 0"),
    ("pretrain.weight_decay", -1e-4, "allowed: a number, 0 or more"),
    ("pretrain.clip_norm", 0.0, "allowed: greater than 0"),
    ("finetune.pretrained_rate", 0.0, "allowed: a number above 0"),
    ("finetune.pretrained_rate", -1.0, "allowed: a number above 0"),
    ("finetune.reestimate_statistics", 1, "allowed: true or false"),
    ("finetune.architecture", "vit", "allowed: 'resnet' or 'resnet36_attention'"),
    ("predict.arm", "both", "allowed: 'supervised', 'selfie' or 'weights'"),
    ("embed.layer", "stage4", "allowed: 'stage3' or 'u'"),
    ("embed.map", "umap", "allowed: 'pca' or 'tsne'"),
    ("embed.points", 0, "allowed: a whole number, 1 or more"),
    ("model.width", 12, "allowed: a multiple of 8"),
    ("model.stem", "tiny", "allowed: 'small' or 'standard'"),
    ("model.positions", "sinus", "allowed: 'table' or 'row_column'"),
    ("data.source", "imagnet", "allowed: 'digits'"),
    ("data.labels", 7, "allowed: a file, a list of files, or null"),
    ("compute.accelerator", "tpu", "allowed: 'auto', 'cpu' or 'gpu'"),
    ("compute.precision", "fp16", "allowed: 'auto', 'bf16' or 'fp32'"),
    ("compute.compile", "on", "allowed: 'auto', 'always' or 'never'"),
    ("compute.engine", "spark", "allowed: 'local' or 'ray'"),
    ("compute.workers", 0, "allowed: a whole number, 1 or more"),
    ("compute.batch_norm", "global", "allowed: 'synchronised' or 'local'"),
    ("compute.cpus_per_cell", 0, "allowed: a number above 0"),
    ("compute.cells_at_once", 0, "allowed: auto, or a whole number, 1 or more"),
    ("compute.cells_at_once", "all", "allowed: auto, or a whole number, 1 or more"),
    ("compute.gpus_per_cell", 2, "allowed: a number in (0, 1]"),
    ("compute.max_failures", -1, "allowed: a whole number, 0 or more"),
    ("resume", "always", "allowed: 'auto' or 'never'"),
    ("patch.targets", 1, "allowed: a whole number, 2 or more"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED, ids=lambda part: str(part)[:30])
def test_a_refusal_names_the_key_the_value_and_the_allowed_values(
    make_parameters, key, value, allowed
):
    message = refuse(make_parameters({key: value}))
    assert message.startswith(f"{key} = {value!r} is not allowed; ")
    assert allowed in message


def test_an_item_of_a_list_is_named_by_its_index(make_parameters):
    message = refuse(make_parameters({"model.layers": [1, 0, 1, 1]}))
    assert message.startswith("model.layers.1 = 0 is not allowed; allowed:")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data.labels": "labels.csv"},
            "data.labels is not allowed with data.source = 'digits'; allowed: null, as only an "
            "image_folder needs label tables",
        ),
        (
            {"patch.patch_size": 7},
            "patch.patch_size = 7 does not divide patch.image_size = 32; allowed: 2, 4, 8, 16",
        ),
        (
            {"patch.canvas_size": 36},
            "patch.patch_size = 8 does not divide patch.canvas_size = 36; allowed: 2, 4",
        ),
        (
            {"patch.image_size": 127},
            "patch.patch_size = 8 does not divide patch.image_size = 127; "
            "allowed: none with these sizes, so change them",
        ),
        (
            {"finetune.accumulate": 8},
            "finetune.accumulate = 8 leaves micro-batches of one image, too few for BatchNorm; "
            "allowed: a divisor of finetune.batch_size = 8 that is less than it",
        ),
        (
            {
                "compute.engine": "ray",
                "compute.workers": 8,
                "compute.batch_norm": "local",
                "pretrain.batch_size": 8,
            },
            "compute.workers = 8 × finetune.accumulate = 1 leaves one image of finetune.batch_size "
            "= 8 for each worker's BatchNorm; allowed: fewer workers, or "
            "compute.batch_norm=synchronised",
        ),
        (
            {"data.name": "two\nlines"},
            "data.name = 'two\\nlines' is not allowed; allowed: a line of text without control "
            "characters",
        ),
        (
            {"data.name": ""},
            "data.name = '' is not allowed; allowed: a line of text without control characters",
        ),
        (
            {"patch.canvas_size": 24},
            "patch.canvas_size = 24 is smaller than patch.image_size = 32; allowed: 32 or more",
        ),
        (
            {"patch.targets": 16},
            "patch.targets = 16 leaves no context: the 4 × 4 grid has 16 patches; allowed: 2 to 15",
        ),
        (
            {"patch.targets": 40},
            "patch.targets = 40 leaves no context: the 4 × 4 grid has 16 patches; allowed: 2 to 15",
        ),
        (
            {"model.attention.heads": 3},
            "model.attention.heads = 3 does not divide 16 × model.width = 128; "
            "allowed: a divisor of 128",
        ),
        (
            {"pretrain.accumulate": 3},
            "pretrain.accumulate = 3 does not divide pretrain.batch_size = 8; "
            "allowed: a divisor of 8",
        ),
        (
            {"compute.engine": "ray", "compute.workers": 4, "finetune.accumulate": 4},
            "compute.workers = 4 × finetune.accumulate = 4 does not divide finetune.batch_size = "
            "8; allowed: workers × accumulate a divisor of 8",
        ),
        (
            {"finetune.architecture": "resnet36_attention", "patch.patch_size": 2},
            "patch.patch_size = 2 does not fit finetune.architecture = resnet36_attention: "
            "its feature map has a stride of 4 pixels; allowed: a multiple of 4",
        ),
        (
            {"finetune.architecture": "resnet36_attention", "model.stem": "standard"},
            "patch.patch_size = 8 does not fit finetune.architecture = resnet36_attention: "
            "its feature map has a stride of 16 pixels; allowed: a multiple of 16",
        ),
        (
            {"experiment.seeds": [0, 1, 0]},
            "experiment.seeds = [0, 1, 0] is not allowed; allowed: a list of distinct whole "
            "numbers",
        ),
        (
            {"tune.space": {"momentum": {"low": 0.5, "high": 1.5, "log": False}}},
            "tune.space.momentum.high = 1.5; allowed: less than 1",
        ),
        (
            {"finetune.warmup_steps": 4},
            "finetune.warmup_steps = 4 leaves no step after the warm-up; "
            "allowed: less than finetune.steps = 4",
        ),
    ],
    ids=str,
)
def test_contradictory_values_are_named_with_the_allowed_values(make_parameters, changes, expected):
    assert refuse(make_parameters(changes)) == expected


def test_values_that_a_message_allows_are_accepted(make_parameters):
    """Each patch size that the message names is accepted if it leaves enough patches."""
    for size in (2, 4, 8, 16):
        changes = {"patch.patch_size": size, "patch.targets": 3}
        assert load_config(make_parameters(changes)).patch.patches == (32 // size) ** 2


def test_a_patch_size_that_leaves_one_patch_is_refused_with_an_allowed_size(make_parameters):
    """No number of targets is allowed then, so the message must not say "2 to 0"."""
    message = refuse(make_parameters({"patch.patch_size": 32, "patch.targets": 2}))
    assert "2 to 0" not in message


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("labeled_fraction", "labeled_frac"),
        ("pretrain.learning_rate", "peak_learning_rate"),
        ("model.atention", "attention"),
        ("model.attention.head", "heads"),
        ("finetune.batchsize", "batch_size"),
        ("patch.target", "targets"),
    ],
)
def test_an_unknown_key_is_named_with_the_most_similar_one(make_parameters, key, suggestion):
    message = refuse(make_parameters({key: 1}))
    assert message.startswith(f"{key} is not a parameter; did you mean {suggestion}? allowed here:")


def test_an_unknown_key_similar_to_none_is_named_with_the_allowed_ones(make_parameters):
    message = refuse(make_parameters({"augmentation.xyz": 1}))
    assert message == "augmentation.xyz is not a parameter; allowed here: pad, flip"


LIMITS = {"low": 0.01, "high": 0.4, "log": True}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"peak_learning_rate": LIMITS | {"lo": 1}},
            "tune.space.peak_learning_rate.lo is not a parameter; did you mean low? allowed here: "
            "low, high, log",
        ),
        (
            {"peak_learning_rate": LIMITS, "peak_learning_rat": {"low": 1}},
            "tune.space.peak_learning_rat is not a parameter; did you mean peak_learning_rate? "
            "allowed here: peak_learning_rate, weight_decay, momentum, pretrained_rate",
        ),
        (
            {"dropout": 3},
            "tune.space.dropout is not a parameter; allowed here: peak_learning_rate, "
            "weight_decay, momentum, pretrained_rate",
        ),
        (
            {"momentum": 3},
            "tune.space.momentum = 3 is not allowed; allowed: its members, one by one, such as "
            "tune.space.momentum.low",
        ),
        (
            {"momentum": LIMITS | {"low": 0}},
            "tune.space.momentum.low = 0 is not allowed; allowed: a number above 0",
        ),
        (
            {"momentum": {"low": 0.1, "high": 0.2}},
            "tune.space.momentum.log is missing; set its default in conf/base",
        ),
    ],
    ids=["member", "name", "name of no group", "no group", "value", "missing"],
)
def test_a_search_space_is_explained_like_other_groups(make_parameters, space, message):
    assert refuse(make_parameters({"tune.space": space})) == message


def test_a_missing_key_is_named(make_parameters):
    parameters = make_parameters()
    del parameters["model"]["attention"]["heads"]
    message = refuse(parameters)
    assert message == "model.attention.heads is missing; set its default in conf/base"


def test_all_errors_are_named_at_once(make_parameters):
    changes = {
        "labeled_frac": 2,
        "seeed": 1,
        "model.stem": "tiny",
        "pretrain.steps": "many",
        "patch.patch_size": 5,
        "augmentation.pad": -3,
    }
    message = refuse(make_parameters(changes))
    for words in (
        "labeled_frac = 2 ",
        "seeed is not a parameter; did you mean seed?",
        "model.stem = 'tiny' ",
        "pretrain.steps = 'many' ",
        "patch.patch_size = 5 ",
        "augmentation.pad = -3 ",
    ):
        assert words in message
    assert message.count("; allowed") == 6 - 1  # for an unknown key, a question mark precedes it


def test_of_many_errors_the_first_are_named(make_parameters):
    with pytest.raises(UserError, match=r"data\.labels\.0 = 0 .*; and 990 more$") as caught:
        load_config(make_parameters({"data.labels": [0] * 1000}))

    assert str(caught.value).count("not allowed") == 10


def test_the_limits_themselves_are_allowed(make_parameters):
    changes = {
        "labeled_frac": 1,
        "seed": 2**32 - 1,
        "patch.targets": 15,
        "pretrain.warmup_steps": 0,
        "finetune.warmup_steps": 3,
        "finetune.momentum": 0.0,
        "pretrain.accumulate": 8,
        "model.attention.heads": 128,
        "finetune.architecture": "resnet36_attention",
        "patch.patch_size": 4,
        "finetune.pretrained_rate": 10,
    }
    config = load_config(make_parameters(changes))
    assert (config.labeled_frac, config.patch.targets) == (1.0, 15)


def test_derived_sizes(make_config):
    config = make_config({"patch.image_size": 56, "patch.canvas_size": 64, "model.width": 24})
    assert (config.patch.grid_size, config.patch.patches) == (7, 49)
    assert config.model.features == 384


def test_a_configuration_is_immutable(make_config):
    config = make_config()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


FREE_KEYS = {"tune.space"}  # dictionaries with arbitrary keys


def list_model_keys(model, prefix=""):
    """Return the dotted keys of a model."""
    found = set()
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found |= list_model_keys(field.annotation, f"{key}.") if nested else {key}
    return found


def list_parameter_keys(parameters, prefix=""):
    found = set()
    for name, value in parameters.items():
        nested = isinstance(value, dict) and f"{prefix}{name}" not in FREE_KEYS
        found |= list_parameter_keys(value, f"{prefix}{name}.") if nested else {prefix + name}
    return found


def load_conf(environment):
    arguments = CONFIG_LOADER_ARGS | {"default_run_env": environment}
    return OmegaConfigLoader(conf_source=str(CONF), **arguments)["parameters"]


def test_conf_base_has_all_defaults_and_the_models_have_none():
    assert list_parameter_keys(load_conf("base")) == list_model_keys(Config)
    required = Config.model_json_schema()
    for model in (required, *required["$defs"].values()):
        assert set(model["required"]) == set(model["properties"])


@pytest.mark.parametrize("environment", ["base", *ENVIRONMENTS])
def test_all_environments_are_valid(environment):
    load_config(load_conf(environment))


def test_the_recipe_for_cifar10_is_that_of_the_paper():
    config = load_config(load_conf("cifar10"))
    assert config.model.layers == [3, 4, 6, 3]
    assert (config.model.width, config.model.stem) == (64, "small")
    attention = config.model.attention
    assert (attention.blocks, attention.heads, attention.intermediate) == (3, 32, 640)
    assert (attention.dropout, attention.attention_dropout) == (0.1, 0.1)
    assert (config.patch.patches, config.patch.targets, config.patch.patch_size) == (16, 4, 8)
    assert (config.augmentation.pad, config.augmentation.flip) == (4, True)
    for recipe in (config.pretrain, config.finetune):
        assert (recipe.steps, recipe.batch_size, recipe.warmup_steps) == (120_000, 512, 100)
        assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-4)
        assert 0.01 <= recipe.peak_learning_rate <= 0.4


@pytest.mark.parametrize("environment", ["base", *ENVIRONMENTS])
def test_additions_to_the_papers_finetuning_are_off(environment):
    finetune = load_config(load_conf(environment)).finetune
    assert finetune.architecture == "resnet"
    assert (finetune.reestimate_statistics, finetune.pretrained_rate) == (False, 1.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("8h", 28800), ("1.5h", 5400), ("8 h", 0)]
)
def test_times(text, seconds):
    assert parse_duration(text) == seconds
