"""The code that stands in docs/, run."""
