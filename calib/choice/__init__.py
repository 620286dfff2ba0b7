"""Which nodes take integers: sensitivity, plan, memory, speed."""
