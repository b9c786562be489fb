"""The comparison with the peers: `python -m bench`."""
