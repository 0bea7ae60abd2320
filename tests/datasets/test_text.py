"""Tests of the previews of text files."""

from selfie_pipeline.datasets.text import AtomicTextDataset


def test_the_preview_of_a_page_is_its_visible_text(tmp_path):
    dataset = AtomicTextDataset(filepath=str(tmp_path / "report.html"))
    dataset.save(
        "<!doctype html><html><head><title>no</title><style>p {}</style></head><body>"
        "<h1>Did it\n help?</h1><svg><text>no</text></svg><p>Yes &amp; no</p></body></html>"
    )

    assert dataset.preview()["data"] == [["Did it help?"], ["Yes & no"]]
    assert dataset.preview(nrows=1)["data"] == [["Did it help?"]]


def test_the_preview_of_a_text_is_its_first_lines(tmp_path):
    dataset = AtomicTextDataset(filepath=str(tmp_path / "results.md"))
    dataset.save("| a |\n\n| 1 |\n| 2 |\n")

    assert dataset.preview(nrows=2) == {
        "index": [0, 1],
        "columns": ["text"],
        "data": [["| a |"], ["| 1 |"]],
    }
