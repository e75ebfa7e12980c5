"""The family's networks in plain torch, with the attribute names that make the official state-dict keys."""
