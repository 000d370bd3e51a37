"""Pruning and quantising PyTorch models for the crossbars that will hold their weights (needs torch)."""
