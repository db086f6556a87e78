"""Benchmarks of samplers: ``discrete-ebm benchmark SUITE``; see docs/benchmarks.md."""
