"""Benchmarks: how long a container start takes, side by side with its peers. Run `python -m bench.run`."""
