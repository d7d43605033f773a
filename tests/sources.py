"""The package's sources, and what they import, read without running them."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "nnunetv2_missmod"
METHODS = f"{PACKAGE}.methods"
DOORS = f"{PACKAGE}.trainers"


def module_name(path):
    """Dotted name of a file of the package; setup.py maps trainers/ and plans/ into the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == PACKAGE else (PACKAGE, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_sources():
    """Source of every module by its dotted name; a package's name ends in a dot, so that relative imports resolve."""
    files = [file for folder in (PACKAGE, "trainers", "plans") for file in (ROOT / folder).rglob("*.py")]
    return {module_name(file) + "." * (file.name == "__init__.py"): file.read_text(encoding="utf-8") for file in files}


def imported(module, source):
    """Every dotted name that a module imports, wherever in it: ``from a import b`` is both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found.update(a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
    return found


def within(name, *packages):
    return any(name.rstrip(".") == package or name.startswith(f"{package}.") for package in packages)
