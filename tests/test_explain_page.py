import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from carclf.explain_page import inside_share, overlay_page


def test_the_share_inside_a_box_is_counted_pixel_by_pixel():
    maps = np.random.default_rng(0).random((3, 20, 40))
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1], [0.1, 0.1, 0.2, 0.2]])
    expected = [maps[0].sum(), maps[1, 10:, 10:30].sum(), maps[2, 2:4, 4:8].sum()] / maps.sum((1, 2))
    np.testing.assert_allclose(inside_share(maps, boxes), expected)


def test_pixels_on_the_edge_count_in_part():
    """The share of a map of ones is the area of the box, wherever its edges fall."""
    rng = np.random.default_rng(1)
    low, high = rng.uniform(0, 0.45, (50, 2)), rng.uniform(0.55, 1, (50, 2))
    share = inside_share(np.ones((50, 7, 9)), np.hstack([low, high]))
    np.testing.assert_allclose(share, (high - low).prod(1))


def test_inside_and_border_are_the_whole():
    maps = np.random.default_rng(2).random((4, 16, 16))
    left, right = (inside_share(maps, box) for box in ([0, 0, 0.3, 1], [0.3, 0, 1, 1]))
    np.testing.assert_allclose(left + right, 1)


def test_a_map_of_zeros_has_no_share():
    maps = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    np.testing.assert_array_equal(inside_share(maps, [0, 0, 0.5, 1]), [np.nan, 0.5])


@pytest.mark.parametrize("box", [[0, 0, 320, 240], [0.5, 0, 0.5, 1], [0, 0.9, 1, 0.1], [-0.1, 0, 1, 1]])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match=r"must be left, top, right, bottom as shares .* divide pixels by width"):
        inside_share(np.ones((1, 8, 8)), box)


def test_a_page_shows_each_photo_beside_its_map(tmp_path):
    photo = Image.new("RGB", (120, 60), (0, 0, 255))
    photo.save(tmp_path / "Audi.png")
    (tmp_path / "broken.jpg").write_text("no photo")
    maps = np.zeros((3, 8, 8), np.float32)
    maps[:, :, :4] = 1
    sources = [tmp_path / "Audi.png", np.moveaxis(np.asarray(photo), -1, 0), tmp_path / "broken.jpg"]
    figure = overlay_page(sources, maps, ["one", "two", "three"], boxes=[[0.5, 0.25, 1, 1]] * 3)
    assert isinstance(figure, Figure)
    assert [ax.get_title("left") for ax in figure.axes] == ["one", "", "two", "", "three", ""]
    shown = [ax.images[0].get_array() if ax.images else None for ax in figure.axes]
    assert shown[4] is None  # the grey tile of what cannot be read
    assert shown[5] is None
    for plain, overlaid in (shown[:2], shown[2:4]):
        assert plain.shape == overlaid.shape == (60, 120, 3)
        np.testing.assert_array_equal(overlaid[5, 100], plain[5, 100])  # where nothing counts, the photo
        assert overlaid[5, 5, 2] < 200  # where all counts, a bright warm colour
        assert overlaid[5, 5, 0] > 150
        assert overlaid[15, 90].tolist() == [255, 255, 255]  # the box's upper edge
        assert overlaid[40, 90].tolist() == [0, 0, 255]  # and its inside
    with pytest.raises(ValueError, match="3 photos and 2 maps; give one map a photo"):
        overlay_page(sources, maps[:2])
