"""Operations on rows of numbers, each as native code and as its numpy reference."""
