"""Decoder language models: files, tokenizers, packed weights and the native step that runs them."""
