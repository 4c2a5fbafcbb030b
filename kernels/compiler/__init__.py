"""From LLVM IR to machine code, kept on disk; the only wing that knows LLVM's binding."""
