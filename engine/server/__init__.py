"""HTTP: the server that programs which speak OpenAI's API expect. Needs linnet-llm[serve]."""
