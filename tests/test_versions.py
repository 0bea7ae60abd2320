"""Tests of the versions that a run loads and saves, on entries of a catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DataCatalog, MemoryDataset

from selfie_pipeline.config import UserError
from selfie_pipeline.versions import (
    RunVersions,
    claim_version,
    outer_versions,
    pin_versions,
    release_claims,
    versioned_entries,
)

DAYS = [f"2026-01-0{day}T00.00.00.000Z" for day in range(1, 8)]


def make_catalog(
    folder: Path, run: str, names: tuple[str, ...] = ("numbers", "text"), **load_versions: str
) -> DataCatalog:
    """Return the catalog of a run with these versioned entries; all but "text" are JSON."""
    entries = {
        name: {
            "type": "selfie_pipeline.datasets.text."
            + ("AtomicTextDataset" if name == "text" else "AtomicJSONDataset"),
            "filepath": str(folder / name),
            "versioned": True,
        }
        for name in names
    }
    return DataCatalog.from_config(entries, load_versions=load_versions, save_version=run)


def save(folder: Path, run: str, numbers: list[int]) -> None:
    make_catalog(folder, run).save("numbers", numbers)


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_run_loads_what_it_has_saved(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, DAYS[1])
    pin_versions(catalog, catalog.keys(), ["numbers"], DAYS[1])
    catalog.save("numbers", [1])
    save(tmp_path, DAYS[2], [2])  # another run

    assert catalog.load("numbers") == [1]
    catalog.release("numbers")  # as Kedro does after a node
    assert catalog.load("numbers") == [1]


def test_what_an_earlier_run_saved_is_chosen_before_the_first_node(tmp_path: Path) -> None:
    save(tmp_path, DAYS[0], [0])
    catalog = make_catalog(tmp_path, DAYS[1])
    versions = pin_versions(catalog, catalog.keys(), ["text"], DAYS[1])
    save(tmp_path, DAYS[2], [2])

    assert catalog.load("numbers") == [0]
    assert versions == RunVersions((DAYS[1],), {str(tmp_path / "numbers"): DAYS[0]})


def test_entries_that_a_run_does_not_use_are_not_created(tmp_path: Path) -> None:
    """Creating them would import the libraries of their types."""
    config = {"unused": {"type": "no_such_library.Dataset", "versioned": True}}
    catalog = DataCatalog.from_config(config, save_version=DAYS[1])

    assert pin_versions(catalog, ["params:seed"], [], DAYS[1]) == RunVersions((DAYS[1],), {})


def test_an_output_that_is_not_saved_again_is_that_of_the_earlier_run(tmp_path: Path) -> None:
    """This is what `kedro run --only-missing-outputs` needs."""
    save(tmp_path, DAYS[0], [0])
    catalog = make_catalog(tmp_path, DAYS[1])
    pin_versions(catalog, catalog.keys(), ["numbers"], DAYS[1])

    assert catalog.exists("numbers")
    assert catalog.load("numbers") == [0]


def test_a_requested_version_is_loaded(tmp_path: Path) -> None:
    for day, numbers in enumerate([[0], [1]]):
        save(tmp_path, DAYS[day], numbers)
    catalog = make_catalog(tmp_path, DAYS[2], numbers=DAYS[0])
    pin_versions(catalog, catalog.keys(), ["text"], DAYS[2])

    assert catalog.load("numbers") == [0]


def test_a_history_is_loaded_in_the_version_of_its_encoder(tmp_path: Path) -> None:
    def make(**load_versions: str) -> DataCatalog:
        kind = {"type": "selfie_pipeline.datasets.text.AtomicJSONDataset", "versioned": True}
        names = ("encoder", "pretrain_history")
        entries = {name: kind | {"filepath": str(tmp_path / name)} for name in names}
        return DataCatalog.from_config(entries, load_versions=load_versions)

    for number, day in enumerate(DAYS[:3]):
        for name in ("encoder", "pretrain_history"):
            folder = tmp_path / name / day
            folder.mkdir(parents=True)
            (folder / name).write_text(f"[{number}]")

    for load_versions, expected in (
        ({}, [2]),
        ({"encoder": DAYS[1]}, [1]),
        ({"encoder": DAYS[1], "pretrain_history": DAYS[0]}, [0]),
    ):
        catalog = make(**load_versions)
        pin_versions(catalog, ["pretrain_history"], [], DAYS[3])
        assert catalog.load("pretrain_history") == expected


@pytest.mark.parametrize(
    ("outer", "expected"),
    [
        (RunVersions(), [3]),
        (RunVersions((DAYS[5],), {}), [3]),
        (RunVersions((DAYS[1],), {}), [1]),
        (RunVersions((DAYS[2], DAYS[1]), {}), [2]),
        (RunVersions((DAYS[5],), {"numbers": DAYS[0]}), [0]),
        (RunVersions((DAYS[1],), {"numbers": DAYS[0]}), [1]),
    ],
    ids=["no outer run", "nothing saved", "saved", "innermost", "chosen", "saved and chosen"],
)
def test_a_run_within_a_run_loads_what_that_one_saved_or_chose(
    tmp_path: Path, outer: RunVersions, expected: list[int]
) -> None:
    for day in range(4):
        save(tmp_path, DAYS[day], [day])
    chosen = {str(tmp_path / name): version for name, version in outer.chosen.items()}
    token = outer_versions.set(RunVersions(outer.saved, chosen))
    try:
        catalog = make_catalog(tmp_path, DAYS[6])
        versions = pin_versions(catalog, catalog.keys(), ["text"], DAYS[6])
    finally:
        outer_versions.reset(token)

    assert catalog.load("numbers") == expected
    assert versions.saved == (DAYS[6], *outer.saved)


def test_the_latest_saved_is_the_latest_although_the_clock_was_set_back(tmp_path: Path) -> None:
    save(tmp_path, "2026-01-05T10.00.00.999Z", [1])
    run = "2026-01-05T09.00.00.000Z"
    catalog = make_catalog(tmp_path, run)
    versions = pin_versions(catalog, catalog.keys(), ["numbers"], run)
    catalog.save("numbers", [2])

    assert versions.saved == ("2026-01-05T10.00.01.000Z",)
    assert make_catalog(tmp_path, DAYS[6]).load("numbers") == [2]


def test_a_folder_that_the_user_has_named_does_not_count(tmp_path: Path) -> None:
    save(tmp_path, "good", [1])

    assert claim(tmp_path, DAYS[0]) == DAYS[0]


def claim(folder: Path, run: str, outputs: tuple[str, ...] = ("numbers", "text")) -> str:
    return claim_version(run, versioned_entries(outputs, make_catalog(folder, run)).values())


def test_no_two_runs_save_the_same_version(tmp_path: Path) -> None:
    save(tmp_path, DAYS[0], [0])

    claimed = [claim(tmp_path, DAYS[0]), claim(tmp_path, DAYS[0]), claim(tmp_path, DAYS[0])]

    assert claimed == [f"2026-01-01T00.00.00.00{number}Z" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "other", "saved", "others", "expected"),
    [
        # test_classifier ran again on its own; another finetuning was stopped after its training
        ("selfie_history", "selfie_metrics", [0, 1, 3], [0, 2], 1),
        ("selfie_predictions", "selfie_metrics", [0, 2], [0, 2], 2),
        # check_data ran again on its own, on the grids of day 0 and on those of day 2
        ("data_check", "patch_grids", [1, 3, 4], [0, 2], 4),
        ("data_check", "patch_grids", [0, 1], [0], 1),
    ],
)
def test_what_another_node_saved_is_loaded_in_the_version_that_belongs_to_it(
    tmp_path: Path, name: str, other: str, saved: list[int], others: list[int], expected: int
) -> None:
    for entry, days in ((name, saved), (other, others)):
        for day in days:
            make_catalog(tmp_path, DAYS[day], names=(entry,)).save(entry, [day])
    catalog = make_catalog(tmp_path, DAYS[5], names=(name, other))

    pin_versions(catalog, [name], [], DAYS[5])

    assert catalog.load(name) == [expected]


def test_an_earlier_data_check_is_that_of_the_earlier_grids(tmp_path: Path) -> None:
    names = ("data_check", "patch_grids")
    for day in (0, 2):
        make_catalog(tmp_path, DAYS[day], names=names).save("patch_grids", [day])
    for day in (1, 3):
        make_catalog(tmp_path, DAYS[day], names=names).save("data_check", [day])
    catalog = make_catalog(tmp_path, DAYS[5], names=names, patch_grids=DAYS[0])

    pin_versions(catalog, ["data_check"], [], DAYS[5])

    assert catalog.load("data_check") == [1]


def test_claims_into_which_nothing_was_saved_are_removed(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, DAYS[0])
    pin_versions(catalog, catalog.keys(), ["numbers", "text"], DAYS[0])
    assert folders(tmp_path / "numbers") == folders(tmp_path / "text") == DAYS[:1]
    catalog.save("numbers", [0])

    release_claims(versioned_entries(["numbers", "text"], catalog).values())

    assert folders(tmp_path / "numbers") == DAYS[:1]
    assert folders(tmp_path / "text") == []
    assert catalog.load("numbers") == [0]


def test_a_version_that_another_run_takes_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run comes between the look for existing versions and the first folder."""
    catalog = make_catalog(tmp_path, DAYS[0])
    (tmp_path / "text" / DAYS[0]).mkdir(parents=True)
    entries = versioned_entries(["numbers", "text"], catalog).values()
    for entry in entries:
        monkeypatch.setattr(entry, "list_versions", lambda **_: [])

    version = claim_version(DAYS[0], entries)

    assert version > DAYS[0]
    assert folders(tmp_path / "numbers") == [version]


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_text("an unversioned file")

    with pytest.raises(UserError, match=r"numbers/2026-01-01.* can't be created: Not a directory"):
        claim(tmp_path, DAYS[0])


def test_a_link_to_a_disk_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    (tmp_path / "numbers").symlink_to(tmp_path / "unmounted")

    with pytest.raises(UserError, match=r"numbers can't be created: a link without a target; fix"):
        claim(tmp_path, DAYS[0])


def test_entries_without_versions_are_left_out(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, DAYS[0])
    catalog["memory"] = MemoryDataset(1)

    assert list(versioned_entries(["memory", "absent", "text"], catalog)) == ["text"]
