"""Other packages' classes over this engine, for programs that were written for those."""
