"""What `benchmarks/real_tasks.py` measures, one module a kind of data."""
