"""Polygons and lines as the settings spell them: read, checked, in fractions of the picture; what lies inside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edge_detector.errors import ConfigError

Points = tuple[tuple[float, float], ...]

_FORMS = 'give "x,y,x,y,...", a list of numbers, of "x,y" or of [x, y]'
_STRAIGHT = 1e-9  # a turn smaller than this, of a polygon scaled to a side of 1, is rounding
_ON_EDGE = 1e-6  # of the picture: float32 boxes that end at an edge lie on it


def parse_points(value: object) -> Points:
    """Return the points that `value` spells: "x,y,x,y,...", or a list of numbers, of "x,y" or of [x, y].

    They are fractions of the picture's width and height if none is above 1, else pixels.

    Raises:
        ValueError: it is none of these, a number is negative or not finite, or fractions stand among pixels.
    """
    numbers = list(_numbers(value))
    if len(numbers) % 2:
        raise ValueError(f"holds {len(numbers)} numbers, so one point lacks its y; {_FORMS}")
    wrong = [number for number in numbers if not 0 <= number < math.inf]
    if wrong:
        raise ValueError(f"{wrong[0]:g} lies outside any picture: give numbers from 0 up")
    small = [number for number in numbers if 0 < number < 1]
    if small and max(numbers) > 1:
        raise ValueError(
            f"{small[0]:g} and {max(numbers):g} are together: give fractions of the picture, 0 to 1, or pixels"
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def parse_polygon(value: object) -> Points:
    """Return the corners that `value` spells (see `parse_points`), repeats and a last like the first left out.

    Raises:
        ValueError: they are no points, fewer than three, on one line, or the outline meets itself.
    """
    points = parse_points(value)
    if len(set(points)) < 3:
        raise ValueError(f"a polygon needs 3 different points, got {len(set(points))}")
    points = tuple(point for point, after in zip(points, points[1:] + points[:1], strict=True) if point != after)
    corners = np.array(points)
    corners = (corners - corners.min(axis=0)) / np.ptp(corners, axis=0).max()
    steps = np.roll(corners, -1, axis=0) - corners
    if (np.abs(_cross(np.roll(steps, 1, axis=0), steps)) <= _STRAIGHT).all():
        raise ValueError("has no area: all its points lie on one line")
    met = _first_meeting(corners, steps)
    if met is not None:
        raise ValueError(f"its outline meets itself after points {met[0]} and {met[1]}: give the corners in order")
    return points


def parse_line(value: object) -> Points:
    """Return the two points that `value` spells; see `parse_points`.

    Raises:
        ValueError: they are no points, not two, or the same.
    """
    points = parse_points(value)
    if len(points) != 2 or points[0] == points[1]:
        raise ValueError(f"a line needs 2 different points, got {len(set(points))}")
    return points


def to_fractions(points: Points, size_wh: tuple[int, int], path: str) -> npt.NDArray[np.float64]:
    """Return points as (P, 2) float64 x, y in fractions of a picture of `size_wh` pixels; `path` is their key's.

    Raises:
        ConfigError: a point lies outside the picture.
    """
    xy = np.array(points, np.float64)
    if xy.max() <= 1:
        return xy
    beyond = xy[(xy > size_wh).any(axis=1)]
    if len(beyond):
        x, y = beyond[0]
        raise ConfigError(f"{path}: {x:g},{y:g} lies outside the picture of {size_wh[0]}x{size_wh[1]}")
    # Who draws along the edge gives the last pixel, and boxes that are cut off end one further.
    fractions: npt.NDArray[np.float64] = np.where(xy >= np.array(size_wh) - 1, size_wh, xy) / size_wh
    return fractions


def contains(polygon_xy: npt.NDArray[np.float64], points_xy: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return (N,) whether points (N, 2) lie in the polygon (P, 2) or on its outline, all in fractions of the picture.

    A point beyond the picture is taken at its edge.
    """
    sides = np.roll(polygon_xy, -1, axis=0) - polygon_xy
    offsets = np.clip(points_xy, 0, 1)[:, None] - polygon_xy  # (N, P, 2)
    # A ray to the right of the point passes an odd number of sides if it starts inside.
    spans = (offsets[..., 1] >= 0) != (offsets[..., 1] >= sides[:, 1])
    passed = spans & ((_cross(sides, offsets) > 0) == (sides[:, 1] > 0))
    inside = passed.sum(axis=1) % 2 == 1
    along = np.clip((offsets * sides).sum(axis=2) / (sides**2).sum(axis=1), 0, 1)
    distances = np.linalg.norm(offsets - along[..., None] * sides, axis=2)
    result: npt.NDArray[np.bool_] = inside | (distances <= _ON_EDGE).any(axis=1)
    return result


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, str):
        value = value.split(",")
    elif isinstance(value, list | tuple) and any(isinstance(item, str | list | tuple) for item in value):
        pairs: list[Sequence[object]] = [item.split(",") if isinstance(item, str) else item for item in value]
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"holds what is no point; {_FORMS}")
        value = [number for pair in pairs for number in pair]
    if not isinstance(value, list | tuple):
        raise ValueError(f"is no list of points; {_FORMS}")
    for item in value:
        try:
            if isinstance(item, bool) or not isinstance(item, int | float | str):
                raise ValueError
            yield float(item)
        except (ValueError, OverflowError):
            raise ValueError(f"{item!r} is no number; {_FORMS}") from None


def _cross(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return x1 * y2 - y1 * x2; above 0 if `second` points to the right of `first` as seen in the picture."""
    product: npt.NDArray[np.float64] = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return product


def _first_meeting(starts: npt.NDArray[np.float64], steps: npt.NDArray[np.float64]) -> tuple[int, int] | None:
    """Return the numbers, from 1, of the first points of two sides (P, 2) that meet and are no neighbours.

    Neighbours share a corner; where one turns back on the other, the next side but one meets it, too.
    """
    count = len(starts)
    ends = starts + steps
    from_side = np.stack([starts - starts[:, None], ends - starts[:, None]])  # (2, side, other side, 2)
    turns = _cross(steps[:, None], from_side)
    turns[np.abs(turns) <= _STRAIGHT] = 0
    apart = turns[0] * turns[1] > 0  # the other side lies on one hand of the side
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    away = (low[:, None] > high + _STRAIGHT).any(axis=2)
    number = np.arange(count)
    neighbours = np.isin((number - number[:, None]) % count, (0, 1, count - 1))
    meet = np.argwhere(~(apart | apart.T | away | away.T | neighbours))
    return (int(meet[0][0]) + 1, int(meet[0][1]) + 1) if len(meet) else None
