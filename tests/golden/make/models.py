"""Makes tests/golden/models/*: small random HuggingFace models with logits, losses, gradients and training steps.

    python models.py DIRECTORY [NAME ...]         (torch, transformers, peft, safetensors)

config.json and model.safetensors are what save_pretrained writes (f32, unless the name says bf16; "sharded" ones in
several files with an index).  io.safetensors holds, computed in f64 from these weights: ids, types, mask (1: a token),
labels; logits (of an embedding model the sentence vectors); and with a LoRA of rank 2, alpha 4 on the targets in the
metadata: lora.<tensor> (its values), lora_logits, loss (mean cross-entropy; of an embedding model the mean of logits
times labels), grad.<tensor>, and steps: the losses of 4 steps of SGD with learning rate 0.5 on the same batch.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

N, T, VOCAB = 3, 7, 53


def bert(**more):
    return hf.BertConfig(**{**dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                                   intermediate_size=40, max_position_embeddings=16, type_vocab_size=2, num_labels=3,
                                   pad_token_id=0), **more})


def roberta(**more):
    return hf.RobertaConfig(**{**dict(vocab_size=VOCAB, hidden_size=20, num_hidden_layers=2, num_attention_heads=5,
                                      intermediate_size=28, max_position_embeddings=18, type_vocab_size=1,
                                      num_labels=2, pad_token_id=1, layer_norm_eps=1e-5), **more})


def gpt2(**more):
    return hf.GPT2Config(**{**dict(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=3, n_positions=16,
                                   bos_token_id=1, eos_token_id=1, pad_token_id=0), **more})


def llama(cls=hf.LlamaConfig, **more):
    return cls(**{**dict(vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=36, max_position_embeddings=32, pad_token_id=0,
                         bos_token_id=1, eos_token_id=2), **more})


def rope(**more):
    return {"rope_theta": 10000.0, **more}


MODELS = {
    "bert_classify": (hf.BertForSequenceClassification, bert(), "query,value"),
    "bert_masked_lm": (hf.BertForMaskedLM, bert(hidden_act="gelu_new"), "query,key"),
    "bert_embed": (hf.BertModel, bert(num_attention_heads=4), "query,value"),
    "bert_sharded": (hf.BertForSequenceClassification, bert(), "intermediate.dense"),
    "roberta_classify": (hf.RobertaForSequenceClassification, roberta(), "query,value"),
    "roberta_masked_lm": (hf.RobertaForMaskedLM, roberta(), "query,value"),
    "gpt2_lm": (hf.GPT2LMHeadModel, gpt2(), "c_attn"),
    "gpt2_inner": (hf.GPT2LMHeadModel, gpt2(n_inner=30, scale_attn_by_inverse_layer_idx=True), "c_fc,c_proj"),
    "llama_lm": (hf.LlamaForCausalLM, llama(), "q_proj,v_proj"),
    "llama_mha_tied": (hf.LlamaForCausalLM, llama(num_key_value_heads=4, tie_word_embeddings=True), "gate_proj"),
    "llama_bias": (hf.LlamaForCausalLM, llama(attention_bias=True, mlp_bias=True, head_dim=8), "o_proj,down_proj"),
    "llama_linear": (hf.LlamaForCausalLM, llama(rope_parameters=rope(rope_type="linear", factor=2.0)), "q_proj"),
    "llama_dynamic": (hf.LlamaForCausalLM, llama(max_position_embeddings=5, rope_parameters=rope(
        rope_type="dynamic", factor=2.0)), "k_proj"),
    "llama_3": (hf.LlamaForCausalLM, llama(rope_parameters=rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8)), "q_proj,k_proj"),
    "llama_yarn": (hf.LlamaForCausalLM, llama(rope_parameters=rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=8)), "q_proj"),
    "llama_bf16": (hf.LlamaForCausalLM, llama(), "q_proj,v_proj"),
    "mistral": (hf.MistralForCausalLM, llama(hf.MistralConfig, sliding_window=None), "q_proj,v_proj"),
    "mistral_window": (hf.MistralForCausalLM, llama(hf.MistralConfig, sliding_window=3), "q_proj,v_proj"),
    "qwen2": (hf.Qwen2ForCausalLM, llama(hf.Qwen2Config, tie_word_embeddings=True), "q_proj,v_proj"),
    "qwen3": (hf.Qwen3ForCausalLM, llama(hf.Qwen3Config, head_dim=10), "q_proj,v_proj"),
}


def task_of(cls):
    return ("classify" if "Classification" in cls.__name__ else "masked_lm" if "Masked" in cls.__name__
            else "lm" if "LM" in cls.__name__ else "embed")


def outputs(model, task, ids, types, mask):
    more = {"token_type_ids": types} if types is not None else {}
    out = model(input_ids=ids, attention_mask=mask, **more)
    if task != "embed":
        return out.logits
    h = out.last_hidden_state * mask[..., None]
    return torch.nn.functional.normalize(h.sum(1) / mask.sum(1, keepdim=True), dim=-1)


def loss_of(task, logits, labels):
    if task == "embed":
        return (logits * labels).mean()
    if task == "lm":  # the next token
        logits, labels = logits[:, :-1], labels[:, 1:]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def make(name, out):
    cls, config, targets = MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    config._attn_implementation = "sdpa"
    model = cls(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # no zero bias, no unit norm
            p.add_(0.1 * torch.randn_like(p))
    if "bf16" in name:
        model = model.to(torch.bfloat16)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, max_shard_size="12kB" if "sharded" in name else "5GB")
    (out / "generation_config.json").unlink(missing_ok=True)
    if "bf16" in name:  # what the file holds; rotary frequencies were never rounded
        model = cls.from_pretrained(out, dtype=torch.float64, attn_implementation="sdpa").eval()
    model = model.double()
    task = task_of(cls)
    ids = torch.randint(3, VOCAB, (N, T))
    mask = torch.ones(N, T, dtype=torch.long)
    mask[1, T - 2:] = 0
    mask[2, T - 1:] = 0
    ids[mask == 0] = config.pad_token_id
    types = (torch.arange(T) > 3).long().expand(N, T).contiguous() if "bert" == config.model_type else None
    labels = {"classify": lambda: torch.arange(N) % config.num_labels, "embed": lambda: torch.randn(N, 24).double(),
              }.get(task, lambda: ids.masked_fill(mask == 0, -100))()
    if task == "masked_lm":
        labels[:, ::2] = -100
    tensors = {"ids": ids, "mask": mask.to(torch.uint8), "labels": labels,
               "logits": outputs(model, task, ids, types, mask).detach()}
    if types is not None:
        tensors["types"] = types
    lora = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=targets.split(","),
                                            fan_in_fan_out=config.model_type == "gpt2")).double()
    trained = {k: p for k, p in lora.named_parameters() if p.requires_grad}
    short = {k: k.removeprefix("base_model.model.").replace(".default", "") for k in trained}
    with torch.no_grad():
        for k, p in trained.items():
            p.copy_(0.3 * torch.randn_like(p))
            tensors["lora." + short[k]] = p.clone()
    logits = outputs(lora, task, ids, types, mask)
    tensors["lora_logits"] = logits.detach()
    steps = []
    for step in range(5):
        loss = loss_of(task, outputs(lora, task, ids, types, mask), labels)
        steps.append(loss.item())
        loss.backward()
        with torch.no_grad():
            for k, p in trained.items():
                if step == 0:
                    tensors["grad." + short[k]] = p.grad.clone()
                p -= 0.5 * p.grad
                p.grad = None
    tensors["steps"] = torch.tensor(steps, dtype=torch.float64)
    meta = {"task": task, "targets": targets, "transformers": hf.__version__}
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "io.safetensors", meta)
    print(f"{name:18} {task:9} loss {steps[0]:.6f} -> {steps[-1]:.6f}  {sum(f.stat().st_size for f in out.iterdir())} bytes")


if __name__ == "__main__":
    where = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or MODELS:
        make(name, where / name)
