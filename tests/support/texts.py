"""Texts that a careless server would spoil on their way."""

TEXTS = [
    "Hello",
    "Grüße aus Köln, ça va? Ķīlis",
    "Ελληνικά: ἐν ἀρχῇ ἦν ὁ λόγος",
    "Привет, мир",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "你好，世界",
    "こんにちは世界",
    "안녕하세요",
    "👋🏽 👩🏾‍🚀 𝄞 𐍈 🏴󠁧󠁢󠁷󠁬󠁳󠁿",
    "the first and last of each length: \x7f \x80 \u07ff \u0800 \uffff \U00010000 \U0010ffff",
    "a zero\0inside",
    "",
    "a long one: " + "ä€😀" * 10_000,
]
