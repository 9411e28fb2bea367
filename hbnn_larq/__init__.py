"""Hyperbolic binary neural networks on Larq."""
