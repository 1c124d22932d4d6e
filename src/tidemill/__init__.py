"""tidemill: a daily digest of AI-systems papers in which every paper is a working system."""

__version__ = "0.1.0"
