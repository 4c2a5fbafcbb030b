"""Between text and token ids: vocabularies, tokenizers, stop strings."""
