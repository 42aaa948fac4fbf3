"""The intermediate representation: dimension pairs, ops, graphs, weight programs, text form."""
