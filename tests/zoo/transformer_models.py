"""Transformers built from tiny random configurations of Hugging Face `transformers`, wrapped to give one tensor.

The models are the library's own code, so that their exports contain what users' exports contain. Each wrapper
spells out its inputs, because the exporters read the signature of `forward`.
"""

import transformers
from torch import Tensor, nn

VOCABULARY = 48


class LogitsOnly(nn.Module):
    """Gives the logits alone of a model that returns a structure."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def logits(self, **inputs: Tensor | bool) -> Tensor:
        logits: Tensor = self.model(**inputs).logits
        return logits


class SequenceClassifier(LogitsOnly):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.logits(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)


class MaskedLanguageModel(LogitsOnly):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.logits(input_ids=input_ids, attention_mask=attention_mask)


class CausalLanguageModel(LogitsOnly):
    """Without the cache of keys and values that generation uses."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.logits(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)


class SequenceToSequence(LogitsOnly):
    """Without the cache of keys and values that generation uses."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        return self.logits(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        )


class ImageClassifier(LogitsOnly):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.logits(pixel_values=pixel_values)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        num_labels=3,
    )
    return SequenceClassifier(transformers.BertForSequenceClassification(config))


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=16
    )
    return MaskedLanguageModel(transformers.DistilBertForMaskedLM(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1
    )
    return CausalLanguageModel(transformers.GPT2LMHeadModel(config))


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=1,
    )
    return CausalLanguageModel(transformers.LlamaForCausalLM(config))


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        # With "sdpa" torch.export fails on T5: the strides it expects of the attention are not those it gets.
        attn_implementation="eager",
    )
    return SequenceToSequence(transformers.T5ForConditionalGeneration(config))


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    return ImageClassifier(transformers.ViTForImageClassification(config))


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
    return ImageClassifier(transformers.ConvNextForImageClassification(config))
