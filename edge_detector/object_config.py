"""Settings of what is done with objects: what counts, where, when it is told; words and meanings are Frigate's."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from edge_detector.tracking.polygons import Points, parse_line, parse_polygon

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def parse_period(text: str) -> tuple[int, int]:
    """Return start and end of "HH:MM-HH:MM" in minutes after midnight; over midnight, the end is the smaller.

    Raises:
        ValueError: the text is no period, or one without length.
    """
    match = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", text, re.ASCII)
    if match is not None:
        hours, minutes = (int(match[1]), int(match[3])), (int(match[2]), int(match[4]))
        start, end = (60 * hour + minute for hour, minute in zip(hours, minutes, strict=True))
        if start != end and start < 24 * 60 >= end and max(minutes) < 60:
            return start, end
    raise ValueError("give a time of day as HH:MM-HH:MM, such as 22:00-06:00")


def _check_period(text: str) -> str:
    parse_period(text)
    return text


def _one_or_more(value: object) -> object:
    """Return the list that Frigate's short forms stand for: a lone text, the numbers of one polygon, or nothing."""
    if value is None or value == "":
        return []
    one = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int | float))
    return [value] if one else value


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("a name is made of letters, digits, _ and -, at most 64")
    return text


_Spelled = str | list[float] | list[str] | list[list[float]]  # points, as `parse_points` takes them


def _schema_of(spelled: Any) -> WithJsonSchema:
    """Return the schema, for editors, of what is written in the file."""
    return WithJsonSchema(TypeAdapter(spelled).json_schema())


Name = Annotated[str, AfterValidator(_check_name)]
Polygon = Annotated[Points, BeforeValidator(parse_polygon), _schema_of(_Spelled)]
Line = Annotated[Points, BeforeValidator(parse_line), _schema_of(_Spelled)]
Mask = Annotated[list[Polygon], BeforeValidator(_one_or_more), _schema_of(list[_Spelled] | _Spelled | None)]
Labels = Annotated[list[str], BeforeValidator(_one_or_more), _schema_of(list[str] | str | None)]
Period = Annotated[str, AfterValidator(_check_period)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A block of settings: immutable, typed strictly, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class TrackingConfig(Part):
    """How detections become objects.

    Attributes:
        min_hits: so many inferences must have found an object before it counts.
        lost_s: an object that was not found for so long is gone; only inferences that looked where it is count.
        flow: boxes follow the picture between inferences, by optical flow.
    """

    enabled: bool = True
    min_hits: Count = 2
    lost_s: Positive = 2.0
    flow: bool = True


class FilterConfig(Part):
    """Which detections of a label count.

    Attributes:
        min_area: area of the box in pixels, or, below 1, in fractions of the picture.
        max_area: likewise; null has no limit.
        min_ratio: width of the box divided by its height.
        max_ratio: likewise; null has no limit.
        min_score: detections below are ignored; null leaves it to the program.
        threshold: the median of an object's newest scores must reach it before the object counts, and the mean of some
            30 for as long as it counts; null likewise.
        mask: polygons; what has the middle of its lower edge in one is ignored.
    """

    min_area: NotNegative = 0.0
    max_area: Positive | None = None
    min_ratio: NotNegative = 0.0
    max_ratio: Positive | None = None
    min_score: Fraction | None = None
    threshold: Fraction | None = None
    mask: Mask = []

    @model_validator(mode="after")
    def _check_limits(self) -> FilterConfig:
        comparable = self.max_area is not None and (self.min_area < 1) == (self.max_area < 1)
        if self.max_area is not None and comparable and self.min_area > self.max_area:
            raise ValueError(f"min_area {self.min_area:g} is above max_area {self.max_area:g}")
        if self.max_ratio is not None and self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio {self.min_ratio:g} is above max_ratio {self.max_ratio:g}")
        return self


class ObjectsConfig(Part):
    """Which objects count: labels to `track` (null: all of the model), `filters` by label, a `mask` for all labels."""

    track: list[str] | None = None
    filters: dict[str, FilterConfig] = {}
    mask: Mask = []


class ZoneConfig(Part):
    """A part of the picture; an object is in it if the middle of its lower edge is.

    Attributes:
        coordinates: corners, in fractions of the picture or in pixels.
        objects: labels that it is for; empty: all.
        inertia: so many searched pictures in a row must show an object inside before it counts as in, and outside
            before it counts as out.
        loitering_time: seconds that an object must have been inside, too, before it counts as in.
    """

    coordinates: Polygon
    objects: Labels = []
    inertia: Count = 3
    loitering_time: NotNegative = 0.0


class LineConfig(Part):
    """A line that objects cross with the middle of their lower edge.

    Who looks in the picture from the first point to the second sees "in" as a crossing from left to right, "out" as one
    from right to left: over a line drawn from left to right, "in" goes down the picture.

    Attributes:
        coordinates: its two ends, in fractions of the picture or in pixels.
        objects: labels that it is for; empty: all.
    """

    coordinates: Line
    objects: Labels = []


class MotionConfig(Part):
    """Still scenes are searched less often.

    Attributes:
        mask: polygons in which motion does not count.
        threshold: difference of brightness, 1 to 255, from which a pixel has changed.
        min_area: fraction of the picture that must have changed.
        floor_s: a still scene is searched this often all the same, and at least twice in `max_age_s`.
        hold_s: it is searched at the full rate for so long after the last motion.
    """

    enabled: bool = True
    mask: Mask = []
    threshold: Annotated[int, Field(ge=1, le=255)] = 15
    min_area: Fraction = 0.0002
    floor_s: Positive = 5.0
    hold_s: NotNegative = 2.0


class RegionsConfig(Part):
    """Parts of the picture are searched enlarged, `zoom` times; every `whole_every`th search takes the whole."""

    enabled: bool = False
    whole_every: Count = 3
    zoom: Annotated[float, Field(ge=1, le=4)] = 2.0


class RuleConfig(Part):
    """When an alert is given; what is null is not asked for.

    Attributes:
        label: of the object.
        camera: that sees it.
        zone: that it must be in.
        line: that it must cross, in
        direction: "in" or "out"; null: either.
        for_s: seconds that it must have been in the zone without leaving it, or in view where no zone is named.
        between: local time of day, "22:00-06:00"; may go over midnight.
        weekdays: days on which; a period over midnight belongs to the day on which it begins.
        min_count: so many objects of one camera must meet all this at the same time.
        cooldown_s: seconds from one alert of a camera to the next.
    """

    label: str | None = None
    camera: str | None = None
    zone: str | None = None
    line: str | None = None
    direction: Literal["in", "out"] | None = None
    for_s: NotNegative = 0.0
    between: Period | None = None
    weekdays: Annotated[list[Weekday], Field(min_length=1)] | None = None
    min_count: Count = 1
    cooldown_s: NotNegative = 60.0

    @model_validator(mode="after")
    def _check_together(self) -> RuleConfig:
        if self.label is None and self.zone is None and self.line is None:
            raise ValueError("would hold for every object: name a label, a zone or a line")
        if self.line is None and self.direction is not None:
            raise ValueError("direction is that of a line: name the line")
        if self.line is not None and self.min_count > 1:
            raise ValueError("min_count: objects cross a line one by one, so it must be 1")
        return self


class OverlayConfig(Part):
    """What is drawn into pictures beside boxes: `zones` with lines and their counts."""

    zones: bool = False
