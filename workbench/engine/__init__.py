"""Who runs now: branches, plans, steps and the verbs by which strategies ask for them."""
