"""From logits to a token: parameters, samplers and their order."""
