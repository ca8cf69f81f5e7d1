"""Compares object trackers on synthetic scenes whose true identities are known."""
