"""What architectures are made of; nothing here knows one of them."""
