"""Memory of a run: recorded facts, kept safely, turned into tables that pictures are drawn from."""
