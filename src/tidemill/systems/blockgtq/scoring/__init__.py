"""What whole models say and how fast: token by token against a reference, decoders in a race."""
