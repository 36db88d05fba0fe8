"""The CPU's own forward pass: packed weights, and loops that are compiled once for a machine and kept."""
