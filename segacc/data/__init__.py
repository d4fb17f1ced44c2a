"""From files to tensors to batches, in an order that can be resumed."""
