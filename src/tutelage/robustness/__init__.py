"""What inputs meet outside: corruptions, and attacks that look for the worst change of a size. Pure functions of plain tensors."""
