"""What web servers load."""
