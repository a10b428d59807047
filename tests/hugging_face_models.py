"""Small random models of transformers, saved as theirs, and texts with a tokeniser."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("good", "bad", "film", "plot", "a", "the", "very", "dull", "fine", "not")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def vit(folder: Path, *, labels: int = 10, side: int = 8, channels: int = 1) -> Path:
    """Save a ViT for images of digits."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=side, patch_size=4, num_channels=channels, num_labels=labels)
    ViTForImageClassification(config).save_pretrained(folder)
    said = {"image_mean": [0.25] * channels, "image_std": [0.5] * channels, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def bert(folder: Path, *, vocab_size: int = 12, labels: int = 2, positions: int = 16) -> Path:
    """Save a BERT that classifies texts."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "num_labels": labels, "max_position_embeddings": positions}
    BertForSequenceClassification(BertConfig(**SIZES, **sizes)).save_pretrained(folder)
    return folder


def gpt2(folder: Path, *, vocab_size: int = 12, positions: int = 16) -> Path:
    """Save a causal language model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=positions, vocab_size=vocab_size, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def tokenizer(folder: Path) -> Path:
    """Write the tokeniser.json of `WORDS`, 12 entries with [PAD] and [UNK]."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(("[PAD]", "[UNK]", *WORDS))}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder


def reviews(path: Path, count: int = 120) -> Path:
    """Write a CSV of short texts with a label that one of their words decides."""
    draw = torch.Generator().manual_seed(0)
    rows = ["text,label"]
    for _ in range(count):
        words = [
            WORDS[int(i)]
            for i in torch.randint(
                2, len(WORDS), (int(torch.randint(3, 9, (), generator=draw)),), generator=draw
            )
        ]
        place = int(torch.randint(len(words), (), generator=draw))
        label = int(torch.randint(2, (), generator=draw))
        words[place] = WORDS[1 - label]
        rows.append(f"{' '.join(words)},{('bad', 'good')[label]}")
    path.write_text("\n".join(rows) + "\n")
    return path
