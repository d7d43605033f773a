"""What the machine does to a run: processes that end, memory that ends."""
