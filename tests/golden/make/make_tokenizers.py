"""Makes tests/golden/tokenizers/: small tokenizers of every kind, and what HuggingFace's library makes of some texts.

    python make_tokenizers.py DIRECTORY         (tokenizers 0.23.3)

texts.json holds the texts; NAME.json is a tokenizer; NAME.expected.json has for each text, alone and as the first of a
pair, [ids, types, special mask], then its decodings with and without special tokens.
"""
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

out = pathlib.Path(sys.argv[1])

STORY = """The lorikeet is a small, brightly coloured parrot. It feeds on nectar, and its tongue ends in a brush.
In the morning, when the sun comes up behind the hills, you hear them before you see them: they're loud!
"Don't you think they're beautiful?" she said. He'd seen 3 of them, or 1,234; who'd count? I'll not, we've no time.
A low-rank adapter is a pair of small matrices beside a large one; training touches only the small ones.
Übermut tut selten gut, sagte die Großmutter; el niño comió piñas en la mañana, déjà vu à la française.
Матрица малого ранга. Ο παπαγάλος είναι πράσινος. 小鹦鹉 喝 花蜜。 الطائر صغير 🦜 🙂 👩‍👩‍👧
""".split("\n")
PAIR = "the second text, déjà 2"
TEXTS = [
    "", "a", " ", "The lorikeet is a small parrot.", "  two  spaces   and a tab\there\n\nand lines\r\n", "don't DON'T they'Re we've I'll 'S",
    "e\u0301 \u00e9 E\u0301 \u0130 \u0131 \u017f \u212b \ufb01 \u00bd \u1e9b\u0323", "a\u0301\u0323\u0300b\u0323\u0301", "Straße ΑΣ Σίσυφος ǅ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 🦜", "小鹦鹉和English混合。！？", "مرحبا بالعالم؛ שָׁלוֹם", "नमस्ते กรุงเทพ 한국어 \u1112\u1161\u11ab", "\u0001\u0007 \u0085 \u00a0 \u200b\u2028\ufeff\ufffd a\u00adb",
    "ＡＢＣ　１２３ ① Ⅷ ㎏ ﷺ", "1234567890 12,345.67 ٣٤٥", "𝔘𝔫𝔦 𠀀𠀁 \U0010ffff \ue000", "x" * 101, "lorikeet" * 40,
    "<s> </s><mask>  <mask> .[CLS][MASK] [UNK]<|end|> <tool>a <tool> stool", " leading, trailing ", "_under_ ~`^$+=<>| don’t “q” — …", "▁a▁ <0x41> ▁▁",
    "\u180e\u1680\u205f\u3000x", "a\u200cb\u200dc", "if (x[i] != 0) {\n\treturn x; // 42\n}\n", "\u0f73\u0f71\u0f72 \u0345a\u0345",
]
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre_tokenizers.ByteLevel.alphabet()


def train(tokenizer, trainer, size, **options):
    tokenizer.train_from_iterator(STORY, trainer(vocab_size=size, show_progress=False, **options))
    return tokenizer


def bert(lowercase):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(cleanup=lowercase)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    train(t, trainers.WordPieceTrainer, 320, special_tokens=special)
    if lowercase:
        t.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        t.enable_truncation(24)
        t.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    else:
        t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        t.add_tokens([AddedToken("tool", single_word=True), AddedToken("Lorikeet", normalized=True)])
    return t


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, trainers.BpeTrainer, 400, initial_alphabet=BYTES, special_tokens=["<|end|>"])


def roberta():
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.decoder = decoders.ByteLevel()
    train(t, trainers.BpeTrainer, 400, initial_alphabet=BYTES, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    t.enable_truncation(20, direction="left")
    t.enable_padding(direction="left", pad_to_multiple_of=4, pad_id=1, pad_token="<pad>")
    return t


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, trainers.BpeTrainer, 400, initial_alphabet=BYTES)
    t.add_special_tokens(["<s>", "<|end|>"])
    template = processors.TemplateProcessing("<s> $A", "<s> $A <s>:1 $B:1", special_tokens=[("<s>", t.token_to_id("<s>"))])
    t.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return t


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS.replace("{1,3}", "")), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, trainers.BpeTrainer, 400, initial_alphabet=BYTES)
    t.add_special_tokens(["<|end|>"])
    t.add_tokens(["<tool>"])
    return t


def fallback(name):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    train(t, trainers.BpeTrainer, 480, special_tokens=special, limit_alphabet=60)
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(j))
    t.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    if name == "llama2":
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        t.pre_tokenizer = None
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)])
    return t


def mixed():
    """The parts that no well-known tokenizer has."""
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="#"))
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.Strip(), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")])
    P = pre_tokenizers
    t.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_previous"), P.Digits(individual_digits=True), P.Split(Regex(r"\w+"), "merged_with_next", invert=True), P.Whitespace()])
    t.decoder = decoders.BPEDecoder()
    return train(t, trainers.BpeTrainer, 300, special_tokens=["<unk>"], end_of_word_suffix="</w>", continuing_subword_prefix="#")


def encoded(e):
    return [e.ids, e.type_ids, e.special_tokens_mask]


def expected(t):
    ids = [t.encode(text).ids for text in TEXTS]
    return {
        "single": [encoded(t.encode(text)) for text in TEXTS],
        "pair": [encoded(t.encode(text, PAIR)) for text in TEXTS],
        "decoded": [t.decode(i, skip_special_tokens=False) for i in ids],
        "skipped": [t.decode(i) for i in ids],
    }


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def old_merges(j):
    """Merges as "a b", as all files before 2024 have them."""
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    return j


write("texts", {"texts": TEXTS, "pair": PAIR})
for name, t in {"bert_uncased": bert(True), "bert_cased": bert(False), "gpt2": gpt2(), "roberta": roberta(), "llama3": llama3(), "qwen2": qwen2(),
                "llama2": fallback("llama2"), "mistral": fallback("mistral"), "mixed": mixed()}.items():
    j = json.loads(t.to_str())
    write(name, old_merges(j) if name in ("gpt2", "llama2") else j)
    write(f"{name}.expected", expected(t))
