"""Where objects are and how they move: one Kalman filter per coordinate, for all objects at once, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# In units of an object's size (the root of its area), and of its size per second: so they hold at every distance.
_CENTRE_NOISE = 0.03  # of a detected box, standard deviation
_SIDE_NOISE = 0.06
_DOUBT = 0.2  # that is granted in addition where it is asked which box is which object
_FLOW_NOISE = 0.15  # of a displacement that optical flow saw, besides half a pixel
_FIRST_SPEED = 0.8  # standard deviation of what is not known yet; a walking person does about 1.2
_ACCELERATION = 1.0  # spectral density, size / s^1.5
_SIDE_ACCELERATION = 0.15
_KEEPS_MOVING_S = 3.0  # without a measurement, the speed falls by 1/e in so long
_KEEPS_GROWING_S = 1.0
_FLOW_NOISE_PX = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Estimates for N objects. Coordinates are centre x, centre y, width, height in pixels.

    Attributes:
        place: (N, 4) where they are.
        speed: (N, 4) per second.
        place_var: (N, 4) variance of `place`,
        both_var: (N, 4) covariance of `place` and `speed`,
        speed_var: (N, 4) variance of `speed`.
    """

    place: Array
    speed: Array
    place_var: Array
    both_var: Array
    speed_var: Array

    @classmethod
    def first(cls, xyxy: npt.NDArray[np.floating]) -> Motion:
        """Return the estimates after one detection each, boxes (N, 4) x1, y1, x2, y2."""
        place = _to_centre(xyxy)
        unit = _size(place)
        speed_var = np.repeat(np.square(_FIRST_SPEED * unit), 4, axis=1)
        speed_var[:, 2:] *= 0.1
        return cls(place, np.zeros_like(place), _noise_var(place), np.zeros_like(place), speed_var)

    @classmethod
    def none(cls) -> Motion:
        """Return the estimates of no object."""
        return cls(*(np.zeros((0, 4)) for _ in range(5)))

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, selection: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Motion:
        return Motion(*(values[selection] for values in self._all()))

    def joined(self, other: Motion) -> Motion:
        """Return these objects and behind them those of `other`."""
        return Motion(*(np.concatenate(pair) for pair in zip(self._all(), other._all(), strict=True)))

    def scaled(self, scale_xy: Array) -> Motion:
        """Return the same in a picture that is larger by `scale_xy`."""
        by = np.tile(scale_xy, 2)
        return Motion(
            self.place * by, self.speed * by, self.place_var * by**2, self.both_var * by**2, self.speed_var * by**2
        )

    @property
    def xyxy(self) -> Array:
        """The boxes, (N, 4) x1, y1, x2, y2 in pixels."""
        half = self.place[:, 2:] / 2
        return np.concatenate([self.place[:, :2] - half, self.place[:, :2] + half], axis=1)

    def after(self, dt_s: float, shift_xy: Array | None = None) -> Motion:
        """Return the estimates `dt_s` seconds later.

        `shift_xy` (N, 2) is how far each object moved, as optical flow saw it, NaN where it did not: such an object is
        moved by that much, and its speed corrected; the others go on as before.
        """
        if dt_s <= 0 or not len(self):
            return self
        lasting = np.exp(-dt_s / np.array([_KEEPS_MOVING_S] * 2 + [_KEEPS_GROWING_S] * 2))
        travel_s = np.array([_KEEPS_MOVING_S] * 2 + [_KEEPS_GROWING_S] * 2) * (1 - lasting)
        place = self.place + self.speed * travel_s
        speed = self.speed * lasting
        density = np.square(_size(self.place) * ([_ACCELERATION] * 2 + [_SIDE_ACCELERATION] * 2))
        place_var = self.place_var + 2 * dt_s * self.both_var + dt_s**2 * self.speed_var + density * dt_s**3 / 3
        both_var = self.both_var + dt_s * self.speed_var + density * dt_s**2 / 2
        speed_var = self.speed_var + density * dt_s
        place[:, 2:] = np.maximum(place[:, 2:], 1.0)
        moved = Motion(place, speed, place_var, both_var, speed_var)
        return moved if shift_xy is None else moved._corrected_by_flow(self, dt_s, shift_xy)

    def corrected(self, index: npt.NDArray[np.intp], xyxy: npt.NDArray[np.floating]) -> Motion:
        """Return the estimates after objects `index` were detected at `xyxy` (K, 4)."""
        values = [part.copy() for part in self._all()]
        place, speed, place_var, both_var, speed_var = values
        measured = _to_centre(xyxy)
        surprise = measured - place[index]
        spread = place_var[index] + _noise_var(measured)
        gain, speed_gain = place_var[index] / spread, both_var[index] / spread
        place[index] += gain * surprise
        speed[index] += speed_gain * surprise
        speed_var[index] -= speed_gain * both_var[index]
        both_var[index] *= 1 - gain
        place_var[index] *= 1 - gain
        return Motion(*values)

    def distance(self, xyxy: npt.NDArray[np.floating]) -> Array:
        """Return squared Mahalanobis distances (N, K) of the boxes `xyxy` (K, 4) by centre and sides."""
        measured = _to_centre(xyxy)
        surprise = measured[np.newaxis] - self.place[:, np.newaxis]
        doubt_var = np.square(_DOUBT * _size(measured))
        spread = self.place_var[:, np.newaxis] + (_noise_var(measured) + doubt_var)[np.newaxis]
        return np.asarray(np.square(surprise / np.sqrt(spread)).sum(axis=2), np.float64)

    def _corrected_by_flow(self, before: Motion, dt_s: float, shift_xy: Array) -> Motion:
        seen = np.flatnonzero(np.isfinite(shift_xy[:, 0]))
        values = [part.copy() for part in self._all()]
        place, speed, place_var, both_var, speed_var = values
        noise_var = np.square(_FLOW_NOISE * _size(before.place[seen]) * np.sqrt(dt_s)) + (_FLOW_NOISE_PX * dt_s) ** 2
        place[seen, :2] = before.place[seen, :2] + shift_xy[seen]
        place_var[seen, :2] = before.place_var[seen, :2] + noise_var
        speed_noise_var = (np.square(_FLOW_NOISE * _size(before.place[seen])) + _FLOW_NOISE_PX**2) / dt_s**2
        gain = speed_var[seen, :2] / (speed_var[seen, :2] + speed_noise_var)
        speed[seen, :2] = before.speed[seen, :2] + gain * (shift_xy[seen] / dt_s - before.speed[seen, :2])
        speed_var[seen, :2] *= 1 - gain
        both_var[seen, :2] = before.both_var[seen, :2] * (1 - gain)
        return Motion(*values)

    def _all(self) -> tuple[Array, ...]:
        return self.place, self.speed, self.place_var, self.both_var, self.speed_var


def _to_centre(xyxy: npt.NDArray[np.floating]) -> Array:
    boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def _size(place: Array) -> Array:
    """Return (N, 1) roots of the areas in pixels."""
    return np.sqrt(np.maximum(place[:, 2:3] * place[:, 3:4], 1.0))


def _noise_var(place: Array) -> Array:
    return np.square(_size(place) * ([_CENTRE_NOISE] * 2 + [_SIDE_NOISE] * 2))
