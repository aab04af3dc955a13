"""What onetake decides: specs, the index, the order, resume state. Pure: stdlib and numpy only."""
