"""Tests of the grid of captioned images."""

import numpy as np
import pytest

from selfie_pipeline.report.image_grid import draw_image_grid


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 10), (10, 40)])
def test_images_and_captions_stay_in_their_panels(height: int, width: int) -> None:
    images = np.zeros((5, height, width, 3), dtype=np.uint8)
    captions = ["one line", "three\nlines\nof it", "", "4", "5"]

    figure = draw_image_grid(
        images,
        captions,
        title="Images",
        descriptions=["One", "Another"],
        columns=2,
        width_inches=2,
        font_size=8,
        placeholder="",
    )

    assert figure.get_label() == "Images. One. Another."

    (axes,) = figure.axes
    panel_width, panel_height = figure.bbox.width / 2, figure.bbox.height / 3
    assert panel_width == 2 * figure.dpi
    for number, (image, caption) in enumerate(zip(axes.images, axes.texts, strict=True)):
        row, column = divmod(number, 2)
        upper = figure.bbox.height - row * panel_height
        shown, above = image.get_window_extent(), caption.get_window_extent()
        assert shown.width / shown.height == pytest.approx(width / height)
        assert shown.y1 <= above.y0
        assert above.y1 <= upper
        assert shown.y0 >= upper - panel_height
        for box in (shown, above):
            assert column * panel_width <= box.x0
            assert box.x1 <= (column + 1) * panel_width
