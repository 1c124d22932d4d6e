"""The systems, one package per paper; none imports another."""
