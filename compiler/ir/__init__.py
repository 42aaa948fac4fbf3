"""The intermediate representation: dimension pairs, types, ops, graphs, weight programs and their text form."""
