"""Products of packed weights and activations, for few rows and for many."""
