"""GGUF files: read with every byte checked, written, and fetched from the hub."""
