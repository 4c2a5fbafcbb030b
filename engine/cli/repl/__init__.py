"""`linnet chat` at a terminal and behind a pipe: what is typed, what it does, how answers look."""
