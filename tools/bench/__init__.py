"""Benchmarks: each stage, the running service, and what other people use, in one run on one machine."""
