"""The project as a node sees it that runs other pipelines; what it runs is tested with these."""

from selfie_pipeline.project import _merged


def test_parameters_above_win_and_the_others_stay():
    below = {"seed": 3, "finetune": {"steps": 5, "batch_size": 8}, "arms": ["selfie"]}
    above = {"seed": 4, "finetune": {"steps": 6}, "pretrain": {"images": 100}}

    assert _merged(below, above) == {
        "seed": 4,
        "finetune": {"steps": 6, "batch_size": 8},
        "arms": ["selfie"],
        "pretrain": {"images": 100},
    }
    assert below["finetune"] == {"steps": 5, "batch_size": 8}
