"""The house: what may stand at the top level, and which room may import which."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = {"main.py", "NICE.py", "networks.py", "dataset.py", "utils.py", "fid_kid.py"}
# From the ground up: a room imports rooms that stand before it in this list, and itself.  A folder is one room.
ORDER = [
    "utils",
    "options",
    "layers/fast",
    "layers",
    "networks",
    "images",
    "dataset",
    "demo",
    "checkpoints",
    "scoring",
    "translation/tiling",
    "translation",
    "training",
    "methods",
    "NICE",
    "nicegan",
    "fid_kid",
    "main",
    "figure",
    "benchmarks",
]
# methods/__init__.py names the class of each method, NICE-GAN's too, and imports it when it is asked for
LINES = {"NICE.py": 230, "networks.py": 260, "main.py": 130}
MOST_LINES = 400


def sources() -> list[Path]:
    """The program's Python files, relative to the root."""
    top = [path for path in ROOT.glob("*.py")]
    below = [path for room in ORDER for path in (ROOT / room).rglob("*.py")]
    return sorted({path.relative_to(ROOT) for path in (*top, *below)})


def room_of(path: Path) -> str:
    """The room that a module lies in: the longest entry of ORDER above it."""
    name = path.with_suffix("").as_posix()
    found = [room for room in ORDER if name == room or name.startswith(f"{room}/")]
    assert found, f"{path} is in no room of ORDER"
    return max(found, key=len)


def imports(path: Path) -> set[Path]:
    """Modules of the program that a file imports, also inside functions, relative to the root."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            place = Path(*name.split("."))
            for candidate in (place.with_suffix(".py"), place / "__init__.py", path.parent / place.with_suffix(".py")):
                if (ROOT / candidate).is_file():
                    found.add(candidate)
    return found


def test_the_top_level_holds_six_files():
    assert {path.name for path in ROOT.glob("*.py")} == FILES


def test_no_room_imports_a_higher_one():
    wrong = []
    for path in sources():
        for other in imports(path):
            here, there = room_of(path), room_of(other)
            if ORDER.index(there) > ORDER.index(here):
                wrong.append(f"{path} ({here}) imports {other} ({there})")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_one_another_in_a_circle():
    arrows = {path: {other for other in imports(path) if other != path} for path in sources()}
    for path in arrows:  # a package's face hands names on: whoever imports a module of it does not need the face
        arrows[path] = {
            other for other in arrows[path] if other.name != "__init__.py" or other.parent not in path.parents
        }
    while free := [path for path, others in arrows.items() if not others & arrows.keys()]:
        for path in free:
            del arrows[path]
    assert not arrows, f"a circle of imports: {', '.join(map(str, arrows))}"


def test_files_are_short():
    lengths = {path.as_posix(): len((ROOT / path).read_text("utf-8").splitlines()) for path in sources()}
    wrong = {path: n for path, n in lengths.items() if n > LINES.get(path, MOST_LINES)}
    assert not wrong, f"too long: {wrong}"
