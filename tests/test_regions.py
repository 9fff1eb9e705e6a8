"""What areas cover, against OpenCV; and the way from a grid's cells, as areas, to the map that is judged."""
import cv2
import numpy as np
import torch

from cgsaliency.core.explanation import distribution, in_pixels, peak
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.regions import Regions, covered, of_boxes, painted, squares

VIEW = View.central(500, 375, 224, share=1.0)


def drawn_areas(count: int, seed: int) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    turns = torch.randn(count, 2, 2, generator=generator, dtype=torch.float64) * 40
    centres = torch.rand(count, 1, 2, generator=generator, dtype=torch.float64) * 280 - 28
    return Regions(torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64) @ turns + centres, VIEW)


def test_areas_cover_what_opencv_fills():
    regions = drawn_areas(200, seed=1)
    for corners, tiles in zip(regions.corners.numpy(), covered(regions, 224, 224).numpy()):
        filled = np.zeros((224, 224), np.uint8)     # OpenCV's pixel k has its centre at k, and it draws the outline, too
        cv2.fillConvexPoly(filled, np.round((corners - 0.5) * 16).astype(np.int32), 1, shift=4)
        border = np.zeros((224, 224), np.uint8)
        cv2.polylines(border, [np.round(corners - 0.5).astype(np.int32)], True, 1, thickness=3)
        assert ((filled == tiles) | (border > 0)).all()
        assert tiles[border == 0].sum() == filled[border == 0].sum()


def test_turned_areas_keep_their_area_and_mirrored_ones_their_tiles():
    regions = drawn_areas(50, seed=2)
    inside = (regions.corners > 0).all((1, 2)) & (regions.corners < 224).all((1, 2))
    side = regions.corners[:, 1:] - regions.corners[:, :1]
    area = (side[:, 0, 0] * side[:, 2, 1] - side[:, 0, 1] * side[:, 2, 0]).abs()
    count = covered(regions, 448, 448).flatten(1).sum(1) / 4
    assert inside.sum() > 5 and ((count - area).abs() / area)[inside & (area > 200)].max() < 0.05
    assert covered(Regions(regions.corners[:, [1, 0, 3, 2]], VIEW), 56, 56).equal(covered(regions, 56, 56))
    assert not covered(Regions(regions.corners[:, [0, 0, 2, 2]], VIEW), 224, 224).any()


def test_cells_painted_as_squares_are_the_grid_s_map():
    weights = torch.softmax(torch.randn(3, 49, generator=torch.Generator().manual_seed(3)) * 3, 1)
    map = painted(weights, squares(Grid.even(7, 7, 224, 224), VIEW), ["a", "red", "ball"], "p(r | h)", {}, side=56)
    assert (distribution(map).saliency[:, 0].view(3, 7, 8, 7, 8).sum((2, 4)).flatten(1) - weights).abs().max() < 1e-6
    best = VIEW.to_picture(Grid.even(7, 7, 224, 224).centres.view(-1, 2)[weights[1].argmax()])
    found = peak(map, 1)
    assert abs(found.x - best[0]) < 375 / 14 and abs(found.y - best[1]) < 375 / 14
    assert in_pixels(map, 1)[0, :, :62].eq(0).all()           # left of the central square


def test_overlapping_windows_weigh_by_pixel_or_by_area():
    windows = squares(Grid.even(14, 14, 224, 224), VIEW, cells=3)
    even = torch.full((1, 196), 1 / 196)
    pixel, area = (painted(even, windows, ["a"], "p(r | h)", {}, side=14, by=by).saliency[0, 0] for by in ("pixel", "area"))
    assert abs(float(pixel[7, 7]) - 9 / 196) < 1e-6 and abs(float(pixel[0, 0]) - 4 / 196) < 1e-6      # nine windows in the middle, four in a corner
    assert abs(float(area.sum()) - 1) < 1e-5 and area[0, 0] > pixel[0, 0] / 9                         # a window that is cut keeps its weight
    boxes = of_boxes(torch.tensor([[0.0, 0, 224, 224], [0, 0, 32, 32]]), VIEW)
    shares = [distribution(painted(torch.tensor([[0.5, 0.5]]), boxes, ["a"], "p(r | h)", {}, side=7, by=by)).saliency[0, 0, 0, 0] for by in ("pixel", "area")]
    assert abs(float(shares[0]) - 2 / 50) < 1e-6 and abs(float(shares[1]) - (0.5 + 0.5 / 49)) < 1e-6
