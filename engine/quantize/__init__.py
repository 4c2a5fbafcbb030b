"""From a file of wide weights to one of packed weights."""
