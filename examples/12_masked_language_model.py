"""Infilling with a masked language model from transformers: the blanks are sampled together, the rest is clamped.

E(x) = minus the sum of the model's logits of the words in the blanks, each read in the whole sentence (Goyal et al.
2022, arXiv:2106.02736). One-hot words times the embedding matrix go in, so the energy has a gradient in its encoding.
Without a download a small BERT is trained here on a toy corpus; your own: EBM_BERT=directory (a saved BertForMaskedLM).
Run: python examples/12_masked_language_model.py
"""

import os

import torch

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
TRAINING, CHAINS, STEPS = (40, 8, 40) if SMOKE else (600, 32, 600)
SUBJECTS, VERBS, OBJECTS = ["cat", "dog", "bird", "child"], ["eats", "chases", "sees"], ["fish", "ball", "bird"]
WORDS = ["[MASK]", "the", "old", "small", "in", "garden", *SUBJECTS, *VERBS, *OBJECTS[:2]]
BLANK = "_"


def codes(words: list[str]) -> torch.Tensor:
    return torch.tensor([0 if word == BLANK else WORDS.index(word) for word in words])


def corpus(n: int, generator: torch.Generator) -> torch.Tensor:
    """(n, 9) codes of sentences: the ADJECTIVE SUBJECT VERB the OBJECT in the garden."""
    def pick(words: list[str]) -> str:
        return words[int(torch.randint(len(words), (), generator=generator))]

    rows = [["the", pick(["old", "small"]), pick(SUBJECTS), pick(VERBS), "the", pick(OBJECTS), "in", "the", "garden"]
            for _ in range(n)]
    return torch.stack([codes(row) for row in rows])


def train(model: torch.nn.Module, generator: torch.Generator) -> float:
    """Masked-word training with a third of the words hidden; the last loss in nats a word."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(TRAINING):
        x = corpus(32, generator)
        hidden = torch.rand(x.shape, generator=generator) < 0.33
        logits = model(input_ids=x.masked_fill(hidden, 0)).logits
        loss = torch.nn.functional.cross_entropy(logits[hidden], x[hidden])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def main() -> None:
    try:
        from transformers import BertConfig, BertForMaskedLM
    except ImportError as cause:
        print(f"This example needs transformers, which cannot be imported here ({cause}).")
        print("Install it with: pip install 'discrete-ebm[examples]'")
        print("Nothing was run.")
        return
    torch.manual_seed(0)
    if os.environ.get("EBM_BERT"):
        model = BertForMaskedLM.from_pretrained(os.environ["EBM_BERT"], local_files_only=True)
    else:
        model = BertForMaskedLM(BertConfig(vocab_size=len(WORDS), hidden_size=48, num_hidden_layers=2,
                                           num_attention_heads=4, intermediate_size=96, pad_token_id=0))
        print(f"trained a small BERT: {train(model, torch.Generator().manual_seed(0)):.2f} nats a hidden word")
    model.eval()  # dropout would make the energy random
    sentence = f"the {BLANK} {BLANK} {BLANK} the fish in the garden".split()
    x0 = codes(sentence)
    blank = torch.tensor([word == BLANK for word in sentence])
    embedding = model.get_input_embeddings().weight

    def energy_of(one_hot: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=one_hot @ embedding).logits
        return -(one_hot * logits)[:, blank].sum((1, 2))

    energy = de.from_callable(energy_of, de.Categorical(len(sentence), len(embedding)))
    chains = de.sample(energy, "auto", x0=x0, clamp=~blank, n_chains=CHAINS, n_steps=STEPS, seed=0)
    print(f"picked {chains.choice}")
    print(f"acceptance {chains.acceptance_rate:.2f}")
    if embedding.shape[0] == len(WORDS):
        for x in chains.last[:5].tolist():
            print("  " + " ".join(WORDS[code] for code in x))
    assert bool((chains.x[..., ~blank] == x0[~blank]).all())


if __name__ == "__main__":
    main()
