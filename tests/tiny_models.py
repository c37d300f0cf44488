"""Tiny random models and a tokenizer, made on the spot: no weights are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BASE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def configurations() -> dict[str, Any]:
    """One small configuration for each way in which attention differs."""
    import transformers as t

    sliding = {"sliding_window": 16, "head_dim": 8}
    return {
        "llama": t.LlamaConfig(**BASE),
        "mistral": t.MistralConfig(**BASE, **sliding),
        "qwen2": t.Qwen2Config(**BASE),
        "qwen3": t.Qwen3Config(**BASE, head_dim=16),
        "gemma2": t.Gemma2Config(
            **BASE, **sliding, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
        ),
        "gemma3": t.Gemma3TextConfig(
            **BASE, **sliding, sliding_window_pattern=2, query_pre_attn_scalar=8
        ),
        "phi3": t.Phi3Config(**BASE, pad_token_id=0),
        "gpt_oss": t.GptOssConfig(**BASE, **sliding, num_local_experts=2, num_experts_per_tok=1),
    }


def random_model(config: Any, implementation: str) -> Any:
    """A model with weights large enough that attention is far from even."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation=implementation
    )
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1 or "sinks" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval().float()


def tokenizer() -> Any:
    """Bytes, and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: at for at, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made)
    fast.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    fast.chat_template = TEMPLATE
    return fast


def save(folder: Path, config: Any) -> Path:
    """A model folder as transformers writes it."""
    random_model(config, "sdpa").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
