"""Train the demo model, write it in Hugging Face layout: `train.py OUT [SECONDS]`.

A Llama of 2.7 million parameters and nine layers (so that three nodes hold three each), trained on
`corpus.py` in a few minutes on one processor core, stored in bfloat16. Needs `aitorrentd[torch]`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Final, cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tools.demo_model.corpus import FACTS, conversations

BOS, END, USER, ASSISTANT, SYSTEM = "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL: Final = (BOS, END, USER, ASSISTANT, SYSTEM)
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] "
    "+ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY: Final = 1024
CONTEXT: Final = 512
BATCH, WINDOW = 4, 256
PEAK_RATE: Final = 3e-3


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE: any text can be encoded, whatever the corpus contained."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(t, special=True) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and a mask of those to learn (the answers)."""
    bos, end, user, assistant = (SPECIAL.index(t) for t in (BOS, END, USER, ASSISTANT))
    ids, learn = [bos], [False]
    for question, answer in turns:
        asked = [user, *tokenizer.encode(question).ids, end, assistant]
        told = [*tokenizer.encode(answer).ids, end]
        ids += asked + told
        learn += [False] * len(asked) + [True] * len(told)
    return ids, learn


def build() -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(7)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=160,
            intermediate_size=416,
            num_hidden_layers=9,
            num_attention_heads=5,
            num_key_value_heads=5,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def train(model: LlamaForCausalLM, ids: torch.Tensor, learn: torch.Tensor, seconds: float) -> None:
    """Train for a fixed time, with a cosine schedule over it."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.02
    )
    started, step, mean, report = time.monotonic(), 0, 4.0, 20.0
    while (passed := time.monotonic() - started) < seconds:
        warm = min(1.0, step / 50 + 0.02)
        rate = PEAK_RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * passed / seconds)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        at = torch.randint(0, len(ids) - WINDOW - 1, (BATCH,))
        rows = torch.stack([ids[i : i + WINDOW] for i in at])
        # Questions are read, not learnt: a small model has no capacity to spare for predicting
        # them.
        labels = torch.where(torch.stack([learn[i : i + WINDOW] for i in at]), rows, -100)
        loss = model(input_ids=rows, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        mean = 0.97 * mean + 0.03 * float(loss.detach())
        if passed > report:
            print(f"{passed:4.0f} s  step {step}  loss {mean:.3f}", flush=True)
            report += 20
    print(f"done: {step} steps, loss {mean:.3f}")


def answer(model: LlamaForCausalLM, tokenizer: Tokenizer, question: str) -> str:
    """The model's greedy answer to one question."""
    prompt = f"{BOS}{USER}{question}{END}{ASSISTANT}"
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
    generate = cast(Any, model).generate
    out = generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=120, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=False))


def write(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write weights, configuration, tokenizer and chat template in Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    settings_of_generation: Any = GenerationConfig
    model.generation_config = settings_of_generation(
        bos_token_id=0, eos_token_id=1, do_sample=False
    )
    cast(Any, model).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main(argv: list[str]) -> int:
    """Train, show a few answers, write."""
    if len(argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    talks = conversations(6000)
    tokenizer = train_tokenizer([text for talk in talks for turn in talk for text in turn])
    pairs = [encode(tokenizer, talk) for talk in talks]
    ids = torch.tensor([i for one, _ in pairs for i in one])
    learn = torch.tensor([b for _, one in pairs for b in one])
    model = build()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(ids)} tokens")
    train(model, ids, learn, float(argv[2]) if len(argv) > 2 else 240.0)
    model.train(False)
    right = 0
    for fact in FACTS:
        got = answer(model, tokenizer, fact.questions[0] + "?").removesuffix(END)
        right += got == fact.answer
        print(f"> {fact.questions[0]}?\n  {got}")
    print(f"{right} of {len(FACTS)} answers are exact")
    write(model, tokenizer, Path(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
