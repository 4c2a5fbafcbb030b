"""From a file to text, and from requests to passes: what users call. Imports models and kernels."""
