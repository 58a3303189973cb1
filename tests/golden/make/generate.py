"""Makes tests/golden/models/<name>/generate.safetensors: what transformers generates with its cache.

    python generate.py DIRECTORY [NAME ...]         (torch, transformers, safetensors)

prompt [n]; greedy [n + 8]: generate(do_sample=False) in f64, ending nowhere; cached [n + 7, vocabulary]: the logits of
the prompt in one pass and of each further token in one of its own, with the cache: with "dynamic" rotary embeddings
these are not those of one pass without a cache, as keys stay turned as they were.  Filters, of cached[0]: top_k and
top_p [vocabulary], the probabilities after temperature 0.7, top_k 7 and top_p 0.6; both: 1.5, 20, 0.8.
"""
import copy
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file
from transformers.generation.logits_process import (LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper,
                                                    TopPLogitsWarper)

NAMES = ["gpt2_lm", "llama_lm", "llama_dynamic", "llama_yarn", "mistral_window", "qwen2", "qwen3"]
MORE = 8


def filtered(logits, *warpers):
    scores = LogitsProcessorList(warpers)(None, logits[None])
    return scores.softmax(-1)[0]


def make(where):
    model = hf.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float64, attn_implementation="sdpa").eval()
    torch.manual_seed(1)
    prompt = torch.randint(3, model.config.vocab_size, (1, 6))
    with torch.no_grad():
        # ("dynamic" models remember the longest row that they have seen)
        greedy = copy.deepcopy(model).generate(prompt, do_sample=False, max_new_tokens=MORE, eos_token_id=-1,
                                pad_token_id=0, attention_mask=torch.ones_like(prompt))
        out = model(prompt, use_cache=True)
        cached = [out.logits[0]]
        for i in range(6, 6 + MORE - 1):
            out = model(greedy[:, i:i + 1], use_cache=True, past_key_values=out.past_key_values)
            cached.append(out.logits[0])
    cached = torch.cat(cached)
    heat = TemperatureLogitsWarper
    tensors = {"prompt": prompt[0], "greedy": greedy[0], "cached": cached,
               "top_k": filtered(cached[0], heat(0.7), TopKLogitsWarper(7)),
               "top_p": filtered(cached[0], heat(0.7), TopPLogitsWarper(0.6)),
               "both": filtered(cached[0], heat(1.5), TopKLogitsWarper(20), TopPLogitsWarper(0.8))}
    save_file({k: v.contiguous() for k, v in tensors.items()}, where / "generate.safetensors")
    print(where.name, greedy[0].tolist())


if __name__ == "__main__":
    for name in sys.argv[2:] or NAMES:
        make(pathlib.Path(sys.argv[1]) / name)
