"""Benchmarks of the library: suites, peers, results and the tables made of them; see README.md here."""
