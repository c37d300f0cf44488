"""Read documents longer than any model's window, with any model."""
