"""How cost grows with what is asked of a server: `python -m bench.growth`."""
