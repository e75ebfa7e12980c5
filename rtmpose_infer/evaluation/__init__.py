"""How good poses, tracks and scores are, measured against ground truth."""
