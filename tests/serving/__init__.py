"""A program on `greentor.serving`, and what starts it, for `tests/test_serving*.py`."""
