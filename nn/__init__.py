"""Layers and optimisers over minigrad."""
from nn.layers import BatchNorm, Dropout, Embedding, LayerNorm, Linear, Sequential
from nn.module import Module
from nn.optim import SGD, AdamW, clip_grad_norm
from nn.schedule import cosine_with_warmup

__all__ = ["AdamW", "BatchNorm", "Dropout", "Embedding", "LayerNorm", "Linear", "Module", "SGD", "Sequential",
           "clip_grad_norm", "cosine_with_warmup"]
