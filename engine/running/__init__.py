"""From requests to passes: what the cache holds, and who may extend it."""
