"""Small but real tokenizers: byte-level BPE with pieces of common words and the special tokens of each family."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

_WORDS = (
    "the and to of a in is it you that he was for on are with as his they be at one have this from or had by hot word "
    "but what some we can out other were all there when up use your how said an each she which do their time if will "
    "way about many then them write would like so these her long make thing see him two has look more day could go "
    "come did number sound no most people my over know water than call first who may down side been now find any new "
    "work part take get place made live where after back little only round man year came show every good"
)
_QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LANGUAGES = ("en", "zh", "de", "fr")
TIMESTAMPS = 101


def _byte_level(size: int, pieces: pre_tokenizers.PreTokenizer, bare: tuple[str, ...] = ()) -> Tokenizer:
    """Return a byte-level BPE tokenizer with ``size`` tokens: 256 bytes and pieces of ``bare`` and common words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in (*bare, *("\u0120" + word for word in _WORDS.split())):  # U+0120: the space before a word
        for cut in range(1, len(word)):
            if len(vocabulary) < size and word[: cut + 1] not in vocabulary:
                merges.append((word[:cut], word[cut]))
                vocabulary[word[: cut + 1]] = len(vocabulary)
    if len(vocabulary) != size:
        raise AssertionError(f"the word list gives {len(vocabulary)} text tokens, not {size}")
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def whisper_tokenizer(size: int) -> tuple[Tokenizer, dict[str, int]]:
    """Return a tokenizer of ``size`` tokens, special ones in Whisper's order behind the text, and the special ids.

    Keys of the ids stand without brackets: ``endoftext``, ``en``, ``notimestamps``.
    """
    marks = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    marks += ["nospeech", "notimestamps"]
    text = size - len(marks) - TIMESTAMPS
    tokenizer = _byte_level(text, pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens([AddedToken(f"<|{mark}|>", special=True, normalized=False) for mark in marks])
    stamps = [f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(stamp, special=False, normalized=False) for stamp in stamps])
    return tokenizer, {mark: text + index for index, mark in enumerate(marks)}


def omni_tokenizer(size: int) -> Tokenizer:
    """Return a tokenizer of ``size`` tokens cut as Qwen2 cuts, roles whole, Qwen3-Omni's special tokens at the end."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    marks += ["<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"]
    return _qwen(size, [*marks, "<|audio_pad|>"], ("system", "user", "assistant"))


def step_audio_tokenizer(size: int, codes: int = 8) -> Tokenizer:
    """Return a tokenizer of ``size`` tokens cut as Qwen2 cuts, Step-Audio's special tokens at the end.

    ``codes``: tokens of speech, padding included.
    """
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|BOT|>", "<|EOT|>", "<audio_start>", "<audio_end>"]
    marks += ["<audio_patch>", "<tts_start>", "<tts_end>", "<tts_pad>", *(f"<audio_{index}>" for index in range(codes))]
    return _qwen(size, marks)


def _qwen(size: int, marks: list[str], bare: tuple[str, ...] = ()) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(_QWEN_PIECES), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = _byte_level(size - len(marks), pre_tokenizers.Sequence([split, level]), bare)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return tokenizer
