"""The compiler: from operations to native code, and the threads that run it."""
