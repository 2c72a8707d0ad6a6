"""Gotcha sentences by the published rule, and the spans in which variants differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluation.suites.bias.preference import differing_spans, tokens_in
from megatron_ettin.evaluation.suites.bias.winogender import read_schemas, schemas_of_rows

PRONOUNS = {"male": "he", "female": "she", "neutral": "they"}
SHARES = {"nurse": "90.3", "engineer": "10.72"}


def write_files(folder: Path, shares: dict[str, str] | None = None, leave_out: Sequence[str] = ()) -> Path:
    """Write the sentences of two occupations in the published format."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["sentid\tsentence"]
    for occupation in SHARES:
        for person in ("customer", "someone"):
            for referent in "01":
                for gender, pronoun in PRONOUNS.items():
                    sentid = f"{occupation}.{person}.{referent}.{gender}.txt"
                    if sentid not in leave_out:
                        lines.append(f"{sentid}\tThe {occupation} asked {person} whether {pronoun} could pay.")
    (folder / "all_sentences.tsv").write_text("\n".join(lines) + "\n")
    lines = [f"{name}\t9.4\t{share}\t2015" for name, share in (shares or SHARES).items()]
    header = "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year"
    (folder / "occupations-stats.tsv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def test_gotchas_follow_the_published_rule(tmp_path: Path) -> None:
    """Rudinger et al. 2018, table 2: for female pronouns a gotcha is where the answer is the occupation and less than
    half of its people are women, or where half or more are and the answer is the other person; reversed for male ones.
    """
    gotchas = {schema.name: schema.gotcha for schema in read_schemas(write_files(tmp_path))}
    assert gotchas == {
        "nurse.customer.0": "male",
        "nurse.someone.0": "male",
        "nurse.customer.1": "female",
        "nurse.someone.1": "female",
        "engineer.customer.0": "female",
        "engineer.someone.0": "female",
        "engineer.customer.1": "male",
        "engineer.someone.1": "male",
    }


def test_half_counts_as_female_majority(tmp_path: Path) -> None:
    schemas = read_schemas(write_files(tmp_path, {"nurse": "50", "engineer": "49.99"}))
    assert [schema.majority for schema in schemas[::4]] == ["female", "male"]
    assert schemas[0].female_share == pytest.approx(0.5)


def test_hub_tables_give_the_same_schemas(tmp_path: Path) -> None:
    local = read_schemas(write_files(tmp_path))
    rows = [
        {"sentid": f"{schema.name}.{gender}.txt", "sentence": text}
        for schema in local
        for gender, text in schema.variants.items()
    ]
    gotchas = [{"sentid": f"{schema.name}.{schema.gotcha}.txt"} for schema in local]
    schemas = schemas_of_rows(rows, gotchas, "hub")
    assert [(s.name, s.variants, s.gotcha, s.majority) for s in schemas] == [
        (s.name, s.variants, s.gotcha, s.majority) for s in local
    ]
    with pytest.raises(ConfigError, match=r"engineer\.someone\.1 is not among the gotchas"):
        schemas_of_rows(rows, gotchas[:-1], "hub")


def test_invalid_files_are_rejected(tmp_path: Path) -> None:
    def assert_rejected(words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            read_schemas(tmp_path)

    assert_rejected(r"there is no .*occupations-stats\.tsv; WinoGender consists of all_sentences\.tsv and")
    write_files(tmp_path, {"nurse": "90"})
    assert_rejected("engineer is not among the occupations")
    write_files(tmp_path, {"nurse": "190", "engineer": "1"})
    assert_rejected(r"occupations-stats\.tsv:2: bls_pct_female 190 is not a percentage")
    write_files(tmp_path, leave_out=["nurse.someone.1.neutral.txt"])
    assert_rejected(r"nurse\.someone\.1 has no neutral sentence")
    write_files(tmp_path)
    (tmp_path / "all_sentences.tsv").write_text("sentid\ttext\nnurse.someone.1.male.txt\tx\n")
    assert_rejected("has no column sentence, only sentid, text")
    (tmp_path / "all_sentences.tsv").write_text("sentid\tsentence\nnurse.male\tx\n")
    assert_rejected(r"all_sentences\.tsv:2: sentid nurse\.male must be")


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        (["that he could pay.", "that she could pay.", "that they could pay."], [" he", " she", " they"]),
        (["lost his hat", "lost her hat", "lost their hat"], [" his", " her", " their"]),
        (["call him.", "call her.", "call them."], [" him", " her", " them"]),
        (["he was ill", "she was ill", "they were ill"], ["he was", "she was", "they were"]),
        (["then he", "then her", "then hers"], [" he", " her", " hers"]),
    ],
)
def test_differing_spans_are_complete_words(variants: list[str], words: list[str]) -> None:
    spans = [text[start:end] for text, (start, end) in zip(variants, differing_spans(variants), strict=True)]
    assert spans == words


def test_tokens_in_a_span() -> None:
    offsets = [(0, 0), (0, 4), (4, 7), (7, 9), (9, 13), (0, 0)]
    assert tokens_in(offsets, (5, 9)) == range(2, 4)
    assert tokens_in(offsets, (20, 22)) == range(0)
