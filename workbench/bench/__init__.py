"""Side-by-side measurements: ours and a peer take turns in one run, ratios are paired by turn."""
