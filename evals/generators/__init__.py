"""Question sets made of any text, at any length, with answers that a program can check."""
