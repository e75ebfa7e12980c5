"""How good tracks are, measured against ground truth."""
