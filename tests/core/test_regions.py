"""Coverage masks of regions against OpenCV, and regions painted into maps."""

import cv2
import numpy as np
import torch

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.regions import QuadRegions, box_regions, coverage_mask, grid_regions, paint_regions

VIEW = ImageCrop.center_crop(500, 375, 224, share=1.0)


def random_regions(count: int, seed: int) -> QuadRegions:
    generator = torch.Generator().manual_seed(seed)
    turns = torch.randn(count, 2, 2, generator=generator, dtype=torch.float64) * 40
    centers = torch.rand(count, 1, 2, generator=generator, dtype=torch.float64) * 280 - 28
    return QuadRegions(
        torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64) @ turns + centers, VIEW
    )


def test_coverage_masks_equal_filled_polygons_of_opencv():
    regions = random_regions(200, seed=1)
    for corners, tiles in zip(regions.corners.numpy(), coverage_mask(regions, 224, 224).numpy()):
        # OpenCV's pixel k has its center at k, and it draws the outline, too
        filled = np.zeros((224, 224), np.uint8)
        cv2.fillConvexPoly(filled, np.round((corners - 0.5) * 16).astype(np.int32), 1, shift=4)
        border = np.zeros((224, 224), np.uint8)
        cv2.polylines(border, [np.round(corners - 0.5).astype(np.int32)], True, 1, thickness=3)
        assert ((filled == tiles) | (border > 0)).all()
        assert tiles[border == 0].sum() == filled[border == 0].sum()


def test_coverage_keeps_the_area_of_rotated_regions_and_ignores_mirroring():
    regions = random_regions(50, seed=2)
    inside = (regions.corners > 0).all((1, 2)) & (regions.corners < 224).all((1, 2))
    side = regions.corners[:, 1:] - regions.corners[:, :1]
    area = (side[:, 0, 0] * side[:, 2, 1] - side[:, 0, 1] * side[:, 2, 0]).abs()
    count = coverage_mask(regions, 448, 448).flatten(1).sum(1) / 4
    assert inside.sum() > 5 and ((count - area).abs() / area)[inside & (area > 200)].max() < 0.05
    assert coverage_mask(QuadRegions(regions.corners[:, [1, 0, 3, 2]], VIEW), 56, 56).equal(
        coverage_mask(regions, 56, 56)
    )
    assert not coverage_mask(QuadRegions(regions.corners[:, [0, 0, 2, 2]], VIEW), 224, 224).any()


def test_painted_grid_cells_equal_the_map_of_the_grid():
    weights = torch.softmax(torch.randn(3, 49, generator=torch.Generator().manual_seed(3)) * 3, 1)
    explanation = paint_regions(
        weights, grid_regions(CellGrid.uniform(7, 7, 224, 224), VIEW), ["a", "red", "ball"], "p(r | h)", {}, side=56
    )
    assert (
        explanation.as_distribution().saliency[:, 0].view(3, 7, 8, 7, 8).sum((2, 4)).flatten(1) - weights
    ).abs().max() < 1e-6
    best = VIEW.to_image(CellGrid.uniform(7, 7, 224, 224).centers.view(-1, 2)[weights[1].argmax()])
    peak = explanation.peak(1)
    assert abs(peak.x - best[0]) < 375 / 14 and abs(peak.y - best[1]) < 375 / 14
    assert explanation.upsample(1)[0, :, :62].eq(0).all()  # left of the central square


def test_overlapping_windows_are_weighted_by_pixel_or_by_area():
    windows = grid_regions(CellGrid.uniform(14, 14, 224, 224), VIEW, size_in_cells=3)
    uniform_weights = torch.full((1, 196), 1 / 196)
    pixel, area = (
        paint_regions(uniform_weights, windows, ["a"], "p(r | h)", {}, side=14, weighting=weighting).saliency[0, 0]
        for weighting in ("pixel", "area")
    )
    # nine windows overlap in the middle, four in a corner
    assert abs(float(pixel[7, 7]) - 9 / 196) < 1e-6 and abs(float(pixel[0, 0]) - 4 / 196) < 1e-6
    # a window that is cut keeps its weight
    assert abs(float(area.sum()) - 1) < 1e-5 and area[0, 0] > pixel[0, 0] / 9
    boxes = box_regions(torch.tensor([[0.0, 0, 224, 224], [0, 0, 32, 32]]), VIEW)
    shares = [
        paint_regions(torch.tensor([[0.5, 0.5]]), boxes, ["a"], "p(r | h)", {}, side=7, weighting=weighting)
        .as_distribution()
        .saliency[0, 0, 0, 0]
        for weighting in ("pixel", "area")
    ]
    assert abs(float(shares[0]) - 2 / 50) < 1e-6 and abs(float(shares[1]) - (0.5 + 0.5 / 49)) < 1e-6
