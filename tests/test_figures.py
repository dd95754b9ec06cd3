"""Figures: what is on the pixels."""

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from torch import Tensor

from lsx import figures
from lsx.figures import Cell, Objective, Point

X = Objective("accuracy", "maximize")
Y = Objective("decoy mass", "minimize")
POINTS = [Point(0, 0.8, 0.01), Point(1, 0.9, 0.05), Point(2, 0.7, 0.06)]


def rows(count: int = 3, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, 12, 12, generator=generator)
    masks = torch.zeros(count, 1, 12, 12, dtype=torch.bool)
    masks[:, :, :4, :4] = True
    return images, images.flip(3), masks


def share(path: Path, color: str | tuple[float, ...], tolerance: float = 0.03) -> float:
    """Share of pixels of that color."""
    pixels = imread(path)[..., :3]
    return float((np.abs(pixels - np.array(to_rgb(color))).max(axis=-1) < tolerance).mean())


def box(path: Path, color: str) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the pixels of that color."""
    found = np.argwhere(np.abs(imread(path)[..., :3] - np.array(to_rgb(color))).max(axis=-1) < 0.03)
    (top, left), (bottom, right) = found.min(axis=0).tolist(), found.max(axis=0).tolist()
    return top, bottom, left, right


def test_explanations_outline_masks_only(tmp_path: Path) -> None:
    images, maps, masks = rows()
    figures.explanations(tmp_path / "with.png", images, {"a": maps, "b": maps}, masks)
    figures.explanations(tmp_path / "without.png", images, {"a": maps, "b": maps})
    assert share(tmp_path / "without.png", figures.MASK_COLOR) == 0
    assert share(tmp_path / "with.png", figures.MASK_COLOR) > 0.002


def test_outline_follows_the_mask(tmp_path: Path) -> None:
    images, _, masks = rows(1)
    figures.explanations(tmp_path / "corner.png", images, {}, masks)
    figures.explanations(tmp_path / "all.png", images, {}, torch.ones_like(masks))
    top, bottom, left, right = box(tmp_path / "corner.png", figures.MASK_COLOR)
    full = box(tmp_path / "all.png", figures.MASK_COLOR)
    assert (top, left) == pytest.approx((full[0], full[2]), abs=2)
    assert (bottom - top) / (full[1] - full[0]) == pytest.approx(4 / 12, abs=0.03)
    assert (right - left) / (full[3] - full[2]) == pytest.approx(4 / 12, abs=0.03)


def test_maps_share_one_fixed_scale(tmp_path: Path) -> None:
    images = torch.full((1, 1, 8, 8), 0.5)
    figures.explanations(tmp_path / "maps.png", images, {"half": torch.full_like(images, 0.5), "none": 0 * images})
    half, none = (matplotlib.colormaps[figures.MAP_COLORS](value)[:3] for value in (0.5, 0.0))
    assert share(tmp_path / "maps.png", half) > 0.1  # scaled per map it would be another color
    assert share(tmp_path / "maps.png", none) > 0.1
    assert share(tmp_path / "maps.png", (0.5, 0.5, 0.5)) > 0.1


def test_color_images_and_channel_maps(tmp_path: Path) -> None:
    images = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 6, 6)
    figures.explanations(tmp_path / "color.png", images, {"map": images})
    assert share(tmp_path / "color.png", (1.0, 0, 0)) > 0.1
    assert share(tmp_path / "color.png", matplotlib.colormaps[figures.MAP_COLORS](1.0)[:3]) > 0.1


def test_a_title_is_drawn(tmp_path: Path) -> None:
    images, maps, _ = rows()
    figures.explanations(tmp_path / "plain.png", images, {"a": maps})
    figures.explanations(tmp_path / "titled.png", images, {"a": maps}, title="a title")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "titled.png").read_bytes()


def test_rows_have_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "_finish", lambda figure, path, title: drawn.append(figure))
    images, maps, _ = rows()
    figures.explanations(tmp_path / "x.png", images, {"a": maps}, names=["first", "second", "third"])
    labels = [panel.get_ylabel() for panel in drawn[0].axes[:6]]
    assert labels == ["first", "", "second", "", "third", ""]


def test_front_marks_front_and_baseline(tmp_path: Path) -> None:
    full, bare, starred = (tmp_path / name for name in ("full.png", "bare.png", "starred.png"))
    figures.front(full, POINTS, [0, 1], X, Y)
    figures.front(bare, POINTS[2:3], [], X, Y)
    figures.front(starred, POINTS[2:3], [], X, Y, baseline=POINTS[2])
    assert share(full, figures.FRONT_COLOR) > 0.001
    assert share(bare, figures.FRONT_COLOR) == 0
    assert share(starred, figures.BASELINE_COLOR, 0.01) > share(bare, figures.BASELINE_COLOR, 0.01) + 2e-4
    assert share(bare, figures.TRIAL_COLOR) > 0


@pytest.mark.parametrize(("direction", "steps"), [("maximize", "steps-pre"), ("minimize", "steps-post")])
def test_front_is_joined_by_what_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, steps: str
) -> None:
    drawn = []
    monkeypatch.setattr(figures, "_finish", lambda figure, path, title: drawn.append(figure))
    figures.front(tmp_path / "x.png", POINTS, [0, 1], Objective("x", direction), Y)  # type: ignore[arg-type]
    (line,) = [line for line in drawn[0].axes[0].lines if line.get_color() == figures.FRONT_COLOR]
    assert line.get_drawstyle() == steps
    assert line.get_xydata().tolist() == [[0.8, 0.01], [0.9, 0.05]]
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["0", "1", "2"]
    assert ("higher" if direction == "maximize" else "lower") in drawn[0].axes[0].get_xlabel()
    assert "← lower is better" in drawn[0].axes[0].get_ylabel()


def test_front_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    points = [*POINTS, Point(9, math.nan, 0.1), Point(10, 0.5, math.inf)]
    figures.front(tmp_path / "a.png", points, [0, 1, 9], X, Y, baseline=Point(11, math.nan, 0.1))
    figures.front(tmp_path / "b.png", POINTS, [0, 1], X, Y)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_empty_front_is_still_a_picture(tmp_path: Path) -> None:
    figures.front(tmp_path / "empty.png", [], [], X, Y)
    assert imread(tmp_path / "empty.png").shape[0] > 200


def test_writing_is_atomic_and_makes_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "front.png"
    figures.front(path, POINTS, [0], X, Y)
    assert [file.name for file in path.parent.iterdir()] == ["front.png"]
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.front(path, POINTS[:1], [0], X, Y)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["front.png"]


def test_no_global_style_is_left_behind(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figures.front(tmp_path / "c.png", POINTS, [0], X, Y)
    assert dict(matplotlib.rcParams) == before


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(imread(io.BytesIO(content)))


def grid_of(*pictures: Tensor, **more: Any) -> np.ndarray:
    return decoded(figures.grid([[Cell(one) for one in pictures]], **more)[0])


def near(pixels: np.ndarray, color: Any, tolerance: float = 0.03) -> float:
    return float((np.abs(pixels[..., :3] - np.array(to_rgb(color))).max(axis=-1) < tolerance).mean())


def test_a_grid_has_one_fixed_scale_whatever_its_maps_hold() -> None:
    top, half = matplotlib.colormaps[figures.MAP_COLORS](1.0)[:3], matplotlib.colormaps[figures.MAP_COLORS](0.5)[:3]
    faint = grid_of(torch.full((1, 4, 4), 0.5))
    both = grid_of(torch.full((1, 4, 4), 0.5), torch.ones(1, 4, 4))
    assert near(faint, half) > 0.2 and near(faint, top) < 0.02
    assert near(both, half) > 0.2 and near(both, top) > 0.2


def test_a_signed_map_gives_all_maps_the_signed_scale() -> None:
    colors = matplotlib.colormaps[figures.SIGNED_COLORS]
    pixels = grid_of(torch.full((1, 4, 4), -1.0), torch.ones(1, 4, 4), torch.zeros(1, 4, 4))
    for place in (0.0, 1.0, 0.5):
        assert near(pixels, colors(place)[:3]) > 0.1
    assert near(grid_of(torch.zeros(1, 4, 4)), colors(0.5)[:3], 0.005) < 0.1


def test_of_several_channels_the_strongest_is_shown() -> None:
    colors = matplotlib.colormaps[figures.SIGNED_COLORS]
    pixels = grid_of(torch.stack([torch.full((4, 4), 0.2), torch.full((4, 4), -1.0)]))
    assert near(pixels, colors(0.0)[:3]) > 0.2


def test_a_grid_outlines_captions_and_leaves_places_empty() -> None:
    picture, mask = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :3, :3] = True
    plain = grid_of(picture)
    outlined = decoded(figures.grid([[Cell(picture, "mass 0.12", mask)]])[0])
    assert near(plain, figures.MASK_COLOR) == 0 and near(outlined, figures.MASK_COLOR) > 0.002
    content, width = figures.grid([[Cell(picture, is_map=False), None], [None, None]], ["a", "b"], ["x", "y"])
    pixels = decoded(content)
    assert pixels.shape[1] == pytest.approx(2 * width, abs=2)  # sharp on screens of twice the pixels
    assert (pixels[..., 3] == 0).mean() > 0.5  # transparent, and no scale without a map
    assert near(pixels, matplotlib.colormaps[figures.MAP_COLORS](1.0)[:3]) == 0


def test_a_dark_grid_has_light_words() -> None:
    light, dark = (grid_of(torch.zeros(1, 4, 4), titles=["title"], dark=one) for one in (False, True))
    assert near(dark, "#d7dbe2") > near(light, "#d7dbe2") and near(light, "#1f2937") > near(dark, "#1f2937")
