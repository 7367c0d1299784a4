"""Where memory lies: pages and prefixes as integers, the pool as tensors."""
