"""Synthetic scenes of people whose true boxes and identities are known, at 30 frames per second.

A person is 0.4 times as wide as high and walks about 0.8 of its own heights a second (1.4 m/s at 1.7 m). Who stands
lower in the picture is nearer and covers those behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FPS = 30
SIZE_WH = (1280, 720)
ASPECT = 0.4

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """T frames with K people.

    Attributes:
        name: what happens.
        xyxy: (T, K, 4) float64, pixels of a SIZE_WH picture, cut at its edges; NaN while outside of it.
        visible: (T, K) float64, the share of the person that is neither covered nor outside of the picture.
    """

    name: str
    xyxy: Floats
    visible: Floats

    @property
    def times_s(self) -> Floats:
        """The (T,) seconds of the frames, from 0."""
        return np.arange(len(self.xyxy)) / FPS


def seconds(duration_s: float) -> Floats:
    """Return the times of the frames of a scene, in seconds."""
    return np.arange(round(duration_s * FPS)) / FPS


def person(foot_x: Floats | float, foot_y: Floats | float, height: Floats | float) -> Floats:
    """Return (T, 3): where the feet are and how high the person is, in pixels; scalars are broadcast."""
    return np.stack(np.broadcast_arrays(foot_x, foot_y, height), axis=-1).astype(np.float64)


def assemble(name: str, people: Sequence[Floats], obstacles: Sequence[tuple[float, float, float, float]] = ()) -> Scene:
    """Return the scene of people (T, 3) as `person` makes them; obstacles are boxes xyxy in front of everybody."""
    feet = np.stack(people, axis=1)
    x, y, height = feet[..., 0], feet[..., 1], feet[..., 2]
    whole = np.stack([x - ASPECT * height / 2, y - height, x + ASPECT * height / 2, y], axis=-1)
    inside = np.clip(whole, 0, np.tile(SIZE_WH, 2))
    nearer = y[:, None, :] > y[:, :, None]  # [frame, who is covered, by whom]
    covered = (_overlap(inside[:, :, None], inside[:, None]) * nearer).sum(axis=2)
    for obstacle in obstacles:
        covered += _overlap(inside, np.asarray(obstacle, np.float64))
    visible = np.clip((_area(inside) - covered) / _area(whole), 0, 1)
    outside = _area(inside) <= 0
    return Scene(name, np.where(outside[..., None], np.nan, inside), np.where(outside, 0.0, visible))


def travel(times_s: Floats, legs: Sequence[tuple[float, float]]) -> Floats:
    """Return the way from 0 when each leg (until_s, speed per second) is walked; speeds change over about 0.3 s."""
    ends = np.array([until for until, _ in legs[:-1]])
    speed = np.array([speed for _, speed in legs])[np.searchsorted(ends, times_s, side="right")]
    window = np.ones(9) / 9
    smooth = np.convolve(np.pad(speed, 4, mode="edge"), window, mode="valid")
    return np.cumsum(smooth) / FPS - smooth[0] / FPS


def crossing(rng: np.random.Generator) -> Scene:
    """Two people cross, the farther one is hidden for a moment."""
    t = seconds(12)
    height = rng.uniform(160, 220)
    speed = rng.uniform(0.7, 0.9) * height
    near = person(640 - speed * (t - 6), 520 + rng.uniform(5, 30), height * 1.05)
    return assemble("crossing", [near, person(640 + speed * (t - 6), 520, height)])


def overtaking(rng: np.random.Generator) -> Scene:
    """One person overtakes another in the same direction."""
    t = seconds(14)
    height = rng.uniform(150, 200)
    fast, slow = rng.uniform(0.95, 1.1) * height, rng.uniform(0.5, 0.6) * height
    near = person(700 + fast * (t - 7), 540, height)
    return assemble("overtaking", [near, person(700 + slow * (t - 7), 540 - rng.uniform(10, 25), height * 0.95)])


def obstacle(rng: np.random.Generator) -> Scene:
    """A person walks behind an obstacle and is gone for a second; another one stays before it."""
    t = seconds(12)
    height = rng.uniform(160, 220)
    speed = rng.uniform(0.75, 0.9) * height
    hidden = speed * 1.0 + 0.2 * ASPECT * height  # gone while less than 0.4 of the width shows on either side
    walker = person(640 + speed * (t - 6), 500, height)
    bystander = person(250 + 5 * np.sin(t), 640, height * 1.2)
    return assemble("obstacle", [walker, bystander], [(640 - hidden / 2, 150, 640 + hidden / 2, 560)])


def edges(rng: np.random.Generator) -> Scene:
    """Twelve people enter and leave at all four edges."""
    t = seconds(20)
    people = []
    for number in range(12):
        height = rng.uniform(100, 180)
        start_s = 0.3 + 1.4 * number + rng.uniform(0, 0.5)
        way = rng.uniform(0.75, 1.0) * height * (t - start_s)
        across, sign = rng.uniform(0.2, 0.8), 1 if number % 4 < 2 else -1
        if number % 2:
            top, bottom = 0.0, SIZE_WH[1] + height
            people.append(person(across * SIZE_WH[0], (top if sign > 0 else bottom) + sign * way, height))
        else:
            margin = ASPECT * height / 2
            start_x = -margin if sign > 0 else SIZE_WH[0] + margin
            people.append(person(start_x + sign * way, height + across * (SIZE_WH[1] - height), height))
    return assemble("edges", people)


def stop_and_go(rng: np.random.Generator) -> Scene:
    """Two people walk, stop, and turn back or go on; they meet while one stands."""
    t = seconds(18)
    height = rng.uniform(150, 200)
    speed = rng.uniform(0.75, 0.9) * height
    first = travel(t, [(3, speed), (6, 0), (9, speed), (12, 0), (18, -speed)])
    second = travel(t, [(2, 0), (5, speed), (7, 0), (10, -speed), (13, 0), (18, speed)])
    return assemble("stop and go", [person(150 + first, 520, height), person(1100 - second, 550, height)])


def approaching(rng: np.random.Generator) -> Scene:
    """One person walks to the camera and one away from it."""
    t = seconds(12)
    distance = 1 / 80 + (1 / 520 - 1 / 80) * t / 12  # the height is inverse to the distance, which shrinks evenly
    to, away = 1 / distance, 1 / distance[::-1]
    drift = rng.uniform(-10, 10)
    return assemble(
        "approaching", [person(450 + drift * t, 150 + to, to), person(850 - drift * t, 155 + away * 0.9, away * 0.9)]
    )


def group(rng: np.random.Generator) -> Scene:
    """Eight people walk together in two rows that overlap."""
    t = seconds(14)
    height = rng.uniform(120, 150)
    speed = rng.uniform(0.6, 0.75) * height
    people = []
    for number in range(8):
        row, column = divmod(number, 4)
        sway = 0.05 * height * np.sin(2 * np.pi * (t / rng.uniform(3, 6) + rng.uniform()))
        x = 80 + (column + 0.5 * row) * rng.uniform(0.45, 0.55) * height + speed * t + sway
        people.append(person(x, 480 + 0.3 * row * height + rng.uniform(0, 5), height * rng.uniform(0.93, 1.07)))
    return assemble("group of 8", people)


def runner(rng: np.random.Generator) -> Scene:
    """A person runs past a walking one, back and forth."""
    t = seconds(12)
    height = rng.uniform(140, 180)
    fast = travel(t, [(3, 2.2 * height), (4, 0), (7, -2.2 * height), (8, 0), (12, 2.2 * height)])
    walk = person(300 + 0.5 * height * t, 480, height)
    return assemble("runner", [person(100 + fast, 520, height * 1.05), walk])


def walkers(rng: np.random.Generator, count: int = 50, duration_s: float = 15) -> Scene:
    """Many people wander about at random and turn back at the edges."""
    t = seconds(duration_s)
    height = rng.uniform(60, 100, count)
    low = np.stack([height * ASPECT / 2, height], axis=1)
    high = np.stack([SIZE_WH[0] - height * ASPECT / 2, np.full(count, SIZE_WH[1])], axis=1)
    at, velocity = rng.uniform(low, high), rng.normal(0, 0.6, (count, 2)) * height[:, None]
    path = np.empty((len(t), count, 2))
    keep = np.exp(-1 / FPS / 3)  # a heading is kept for about 3 s
    for frame in range(len(t)):
        path[frame] = at
        kick = rng.normal(0, 0.6, (count, 2)) * height[:, None]
        velocity = keep * velocity + np.sqrt(1 - keep**2) * kick
        velocity = np.where((at < low) & (velocity < 0) | (at > high) & (velocity > 0), -velocity, velocity)
        at = at + velocity / FPS
    return assemble(f"{count} walkers", [person(path[:, k, 0], path[:, k, 1], height[k]) for k in range(count)])


def standing(rng: np.random.Generator) -> Scene:
    """A person stands for long, sways, and is hidden for a moment by one who passes twice."""
    t = seconds(20)
    height = rng.uniform(160, 200)
    sway = 0.03 * height * np.sin(t / rng.uniform(0.8, 1.2))
    passing = travel(t, [(9, 0.8 * height), (11, 0), (20, -0.8 * height)])
    return assemble("standing", [person(640 + sway, 480, height), person(50 + passing, 530, height * 1.1)])


SCENES: tuple[Callable[[np.random.Generator], Scene], ...] = (
    crossing,
    overtaking,
    obstacle,
    edges,
    stop_and_go,
    approaching,
    group,
    runner,
    walkers,
    standing,
)


def _area(xyxy: Floats) -> Floats:
    area: Floats = np.prod(np.maximum(xyxy[..., 2:] - xyxy[..., :2], 0), axis=-1)
    return area


def _overlap(a: Floats, b: Floats) -> Floats:
    """Return the areas that boxes (..., 4) share."""
    corners = [np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])]
    return _area(np.concatenate(corners, axis=-1))
