"""What a graph may hold: ops, each a meaning with a typing rule, a float64 reference and a cost."""
