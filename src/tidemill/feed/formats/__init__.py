"""Parsers, each pure: bytes or text in, entries out. What kind a file is, its content tells."""
