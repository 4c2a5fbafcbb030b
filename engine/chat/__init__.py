"""Between messages and a prompt: chat templates, rendered in a process that can do no harm."""
