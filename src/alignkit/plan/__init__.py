"""The recipe's training step on fake tensors: memory, FLOPs and time, on a machine without the GPU."""
