"""The folders of the house, each with one sentence: its docstring's first."""

from __future__ import annotations

import ast
from pathlib import Path

from words import FOLDERS, ROOMS_ZH

from tidemill.bench import find

ROOT = Path(__file__).parents[1]


def file_tree(language: str = "en") -> str:
    """The rooms, each with one sentence."""
    lines = ["```text"]
    for path in sorted((ROOT / "src" / "tidemill").iterdir()):
        if (path / "__init__.py").is_file():
            lines.append(_line(f"src/tidemill/{path.name}/", _about(path, language)))
        elif path.name == "errors.py":
            lines.append(_line("src/tidemill/errors.py", _about(path, language)))
        if path.name == "systems":
            for inner in sorted(path.glob("*/paper.toml")):
                about = _about_system(inner.parent, language)
                lines.append(_line(f"{inner.parent.name}/", about, indent=13))
    lines += [_line(f"{name}/", text.in_language(language)) for name, text in FOLDERS.items()]
    return "\n".join([*lines, "```"])


def _line(name: str, about: str, indent: int = 0) -> str:
    return f"{' ' * indent + name:<25}{about}"


def _about(path: Path, language: str) -> str:
    """The first sentence of a room or file."""
    if language == "zh":
        return ROOMS_ZH[path.stem]
    source = path if path.is_file() else path / "__init__.py"
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0].rstrip(".")


def _about_system(folder: Path, language: str) -> str:
    return find(folder.name).summary.zh.rstrip("。") if language == "zh" else _about(folder, "en")
