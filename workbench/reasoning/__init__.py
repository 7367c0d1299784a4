"""What to ask next: strategies, and the trees that they grow."""
