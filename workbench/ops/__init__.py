"""The seam between the net and the machine: one contract, several implementations."""
