"""`linnet bench`: tokens a second, and where they go."""
