"""The service for an hour under faults, and under 200 power cuts: `python tests/endurance`, `.../power_cut.py`."""
