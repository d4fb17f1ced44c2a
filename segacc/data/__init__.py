"""Reading, augmenting and batching samples, in an order that can be resumed."""
