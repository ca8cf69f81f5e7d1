"""Files that ship with the package."""

from pathlib import Path

DEMO_CLIP = Path(__file__).parent / "demo.mp4"
