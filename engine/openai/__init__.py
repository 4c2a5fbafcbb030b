"""OpenAI's objects, as dicts, of what a model says: for the server, and for `compat`."""
