"""Load tests and measurements. They send traffic to 127.0.0.1 only, to servers that they started."""
