"""Recipes for the small adapters: exact views of pruned memory, LoRA, a resumable loop."""
