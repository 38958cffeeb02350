"""The published sizes, and two for a laptop: numbers only."""

PRESETS = {
    "gpt1":        dict(vocab_size=40478, block_size=512, n_layer=12, n_head=12, n_embd=768, pre_norm=False),
    "gpt2":        dict(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": dict(vocab_size=50257, block_size=1024, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large":  dict(vocab_size=50257, block_size=1024, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl":     dict(vocab_size=50257, block_size=1024, n_layer=48, n_head=25, n_embd=1600),
    "char":        dict(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384),
    "tiny":        dict(vocab_size=256, block_size=64, n_layer=2, n_head=2, n_embd=32),
}
