"""The import picture: core <- storage <- decode <- stream <- {lightning, composer} <- cli.

Imports go down only, each layer may use the outside packages of its row, and private names of the host
frameworks stand in a `compat.py`. What is imported lazily or for type checking counts like the rest.
"""

import ast
import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "plugin"
PACKAGE = SOURCE / "onetake"

#            layer: (layers below it, outside packages)
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "core": (set(), {"numpy"}),
    "storage": ({"core"}, {"boto3", "botocore", "google", "azure", "requests"}),
    "decode": ({"core", "storage"}, {"numpy", "av", "pyarrow", "ray"}),
    "stream": (
        {"core", "storage", "decode"},
        {"numpy", "av", "pyarrow", "torch", "torchvision", "streaming", "filelock", "psutil"},
    ),
}
for adapter, configs in (("lightning", {"hydra", "omegaconf"}), ("composer", {"omegaconf", "torchmetrics"})):
    LAYERS[adapter] = ({"stream", *LAYERS["stream"][0]}, {adapter, *configs, *LAYERS["stream"][1]})
LAYERS["cli"] = (
    set(LAYERS),
    {"click", "rich", "matplotlib", "PIL", "hydra", "omegaconf", "torchmetrics"}.union(
        *(outside for _, outside in LAYERS.values())
    ),
)

HOSTS = {"streaming", "torch", "torchvision", "lightning", "pytorch_lightning", "composer"}
COMPAT = {f"onetake.{layer}.compat" for layer in ("stream", "lightning", "composer")}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
LAYER_MODULES = [name for name in FILES if name != "onetake"]
HOST_MODULES = [
    name for name in LAYER_MODULES if name.split(".")[1] in {"stream", "lightning", "composer"} and name not in COMPAT
]


def public_names() -> dict[str, str]:
    """What `from onetake import name` loads, by name."""
    return import_module("onetake")._MODULES


def imports_of(tree: ast.Module, module: str, is_package: bool = False) -> Iterator[tuple[str, str | None]]:
    """(module, imported name or None) of each import statement and each `import_module("literal")`."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                origin = f"{base}.{origin}".rstrip(".")
            yield from ((origin, alias.name) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"import_module", "importlib.import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), None


def layer_faults(tree: ast.Module, module: str, is_package: bool = False) -> list[str]:
    own = module.split(".")[1]
    below, outside = LAYERS[own]
    faults = []
    for origin, name in imports_of(tree, module, is_package):
        top = origin.split(".")[0]
        if top != "onetake":
            if top not in outside and top not in sys.stdlib_module_names:
                faults.append(f"{own} imports {top}")
            continue
        if origin == "onetake" and name in public_names():
            origin = public_names()[name]
        elif origin == "onetake" and name in LAYERS:
            origin = f"onetake.{name}"
        layer = origin.removeprefix("onetake").removeprefix(".").split(".")[0]
        if layer and layer != own and layer not in below:
            faults.append(f"{own} imports {origin}")
    return faults


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def private_faults(tree: ast.Module, module: str) -> list[str]:
    """Private names that are imported from a host, or reached through a name imported from one."""
    faults = []
    for origin, name in imports_of(tree, module):
        dotted = f"{origin}.{name}" if name else origin
        if dotted.split(".")[0] in HOSTS and any(map(is_private, dotted.split("."))):
            faults.append(dotted)
    from_hosts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = ((alias.name, alias.asname or alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = ((node.module or "", alias.asname or alias.name) for alias in node.names)
        else:
            continue
        from_hosts |= {bound for origin, bound in names if origin.split(".")[0] in HOSTS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and root.id in from_hosts:
                faults.append(ast.unparse(node))
    return faults


def private_names_of(host: type) -> set[str]:
    """Private methods and class attributes of a host's class, and those it sets on `self`."""
    names = {name for name in vars(host) if is_private(name)}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(host)))
    except (OSError, TypeError):  # no Python source
        return names
    return names | {node.attr for node in ast.walk(tree) if is_self_attribute(node) and isinstance(node.ctx, ast.Store)}


def is_self_attribute(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def inherited_private_faults(module: str) -> list[str]:
    """Private names of a host's class that a subclass overrides, sets or reads."""
    faults = []
    tree = ast.parse(FILES[module].read_text())
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        cls = getattr(import_module(module), node.name)
        hosts = [base for base in cls.__mro__ if base.__module__.split(".")[0] in HOSTS | {"pytorch_lightning"}]
        theirs = set().union(*map(private_names_of, hosts))
        used = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
        used |= {child.attr for child in ast.walk(node) if is_self_attribute(child)}
        faults += [f"{node.name}.{name}" for name in sorted(used & theirs) if not name.startswith("__")]
    return faults


@pytest.mark.parametrize("module", LAYER_MODULES)
def test_imports_go_down_only(module):
    path = FILES[module]
    assert module.split(".")[1] in LAYERS, f"{module} is in no layer: add a row to LAYERS"
    assert layer_faults(ast.parse(path.read_text()), module, path.name == "__init__.py") == []


@pytest.mark.parametrize("module", [name for name in FILES if name not in COMPAT])
def test_private_host_names_stand_in_compat(module):
    assert private_faults(ast.parse(FILES[module].read_text()), module) == []


@pytest.mark.parametrize("module", HOST_MODULES)
def test_inherited_private_host_names_stand_in_compat(module):
    assert inherited_private_faults(module) == []


@pytest.mark.parametrize(
    ("module", "source", "faults"),
    [
        ("core.x", "import math\nimport numpy.random\nfrom .clips import y", []),
        ("core.x", "import av", ["core imports av"]),
        ("core.x", "def f():\n    from ..decode import probe", ["core imports onetake.decode"]),
        ("core.x", "from onetake import VideoDataset", ["core imports onetake.stream.dataset"]),
        ("core.x", "from onetake import stream", ["core imports onetake.stream"]),
        ("core.x", "import importlib\nimportlib.import_module('torch')", ["core imports torch"]),
        ("decode.x", "import rich.progress", ["decode imports rich"]),
        ("decode.x", "import av\nfrom onetake.core import order", []),
        ("stream.x", "import lightning", ["stream imports lightning"]),
        ("lightning.x", "import lightning\nfrom onetake.stream import dataset", []),
        ("lightning.x", "from onetake.composer import spec", ["lightning imports onetake.composer"]),
        ("composer.x", "import onetake.cli.main", ["composer imports onetake.cli.main"]),
        ("cli.x", "import click\nimport onetake.composer.spec", []),
    ],
)
def test_layer_rule_itself(module, source, faults):
    assert layer_faults(ast.parse(source), f"onetake.{module}") == faults


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("from streaming.base import _x", ["streaming.base._x"]),
        ("from torch.utils.data._utils import fetch", ["torch.utils.data._utils.fetch"]),
        ("import streaming as s\ns.x._y", ["s.x._y"]),
        ("from torch.utils.data import DataLoader as D\nD(a)._iterator", ["D(a)._iterator"]),
        ("import torch\ntorch.__version__\nself._own = torch.zeros(1)", []),
        ("from onetake.stream.compat import _x", []),
        ("from .lightning import _x", []),
    ],
)
def test_private_rule_itself(source, faults):
    assert private_faults(ast.parse(source), "onetake.stream.x") == faults


def loaded_by(script: str, *names: str) -> list[str]:
    """Which of the top-level modules `names` a new interpreter has loaded after `script`."""
    report = "\nimport sys, json\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    run = subprocess.run(
        [sys.executable, "-c", script + report], capture_output=True, text=True, check=True, timeout=60
    )
    return sorted(set(names) & set(json.loads(run.stdout.splitlines()[-1])))


HEAVY = ("torch", "torchvision", "streaming", "av", "pyarrow", "numpy", "lightning", "composer", "matplotlib")


def test_core_loads_no_host():
    modules = [name for name in FILES if name.startswith("onetake.core")]
    assert loaded_by("import " + ", ".join(modules), "torch", "av", "pyarrow", "streaming") == []


def test_onetake_itself_loads_nothing():
    assert loaded_by("import onetake; dir(onetake); onetake.__version__", *HEAVY) == []


def test_help_loads_nothing():
    script = "from onetake.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(script, *HEAVY) == []


def test_public_names_exist():
    onetake = import_module("onetake")
    assert set(onetake.__all__) == {*public_names(), "__version__"}
    assert set(onetake.__all__) <= set(dir(onetake))
    for name in public_names():
        assert getattr(onetake, name).__module__.startswith("onetake."), name
    with pytest.raises(AttributeError, match="module 'onetake' has no attribute 'nothing'"):
        _ = onetake.nothing
