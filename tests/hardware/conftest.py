"""What the acceptance tests share: see `acceptance.py`, which runs them and writes the report."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_detector.frame import Frame
from edge_detector.sources import open_source

# Picture 120 of the demo clip. Decoders of JPEG give the same pixels everywhere, those of video do not.
PHOTO = Path(__file__).with_name("people.jpg")


def read_photo() -> Frame:
    """Return the picture that the reference was measured on."""
    with closing(open_source(str(PHOTO))) as photo:
        frame = photo.read(5.0)
    assert frame is not None
    return frame


@pytest.fixture(scope="session")
def photo() -> Frame:
    """See `read_photo`."""
    return read_photo()


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Return a function that asks a person to do something and waits for Enter; skips where nobody is to be asked."""
    if not os.environ.get("EDGE_DETECTOR_INTERACTIVE"):
        pytest.skip("a step for a person: make pi-acceptance INTERACTIVE=1")

    def prompt(text: str) -> None:
        with capfd.disabled(), Path("/dev/tty").open() as terminal:  # pytest keeps standard input to itself
            print(f"\n>>> {text}, then press Enter: ", end="", flush=True)
            terminal.readline()

    return prompt


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Return a function that says something to the person at the terminal."""

    def say(text: str) -> None:
        with capfd.disabled():
            print(f"\n>>> {text}", flush=True)

    return say


@pytest.fixture
def figure(record_property: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    """Return a function that puts a measured figure, with its unit, into the report."""
    return record_property
