"""Figures: perplexity, divergence, speed, and what this machine could do at most."""
