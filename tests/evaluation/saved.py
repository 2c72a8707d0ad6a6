"""Small random models on disk, with changes to their config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.evaluation.tiny_models import released_model, tokenizer


def save_model(kind: str, folder: Path) -> Path:
    """Save an encoder or decoder with its tokenizer in the format of transformers."""
    released_model(kind).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> Path:
    """Change keys of a model's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
