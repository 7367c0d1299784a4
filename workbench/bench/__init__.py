"""Side-by-side measurements: ours and a peer take turns in one run, and ratios are paired turn by turn."""
