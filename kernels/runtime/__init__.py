"""Programs of native steps, and the team of threads that runs them."""
