"""JSON of a model with some of its entries replaced, removed or added: what a damaged or hostile file may hold."""

import copy

from hypothesis import strategies as st

SENTINEL = "fuzz_sentinel"  # a module whose import a test would see
FOREIGN = [
    f"{SENTINEL}.Layer",
    SENTINEL,
    "subprocess.Popen",
    "os.system",
    "os",
    "torch.nn.modules.module.torch.os.system",
    "torch.nn.Module.__subclasses__",
    "dynamic_network_architectures.architectures.unet.torch.hub.load",
]
NAMES = [
    "torch.nn.Linear",
    "torch.nn.Identity",
    "torch.nn.Module",
    "torch.nn.Conv2d",
    "torch.nn.modules.conv.Conv3d",
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "NoNormalization",
    "CTNormalization",
    "NibabelIO",
    "no_resampling_hack",
    "DefaultPreprocessor",
    "DCSegTrainer",
    "inherits_from",
]
TEXTS = st.sampled_from([*FOREIGN, *NAMES, "", "..", "../x", "a/b", "=1", "\0", "x" * 300, "٠"]) | st.text(max_size=5)
# None between what a small network has and what no machine holds.
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 2**31, 2**63, 10**30, 10**400, -(10**400), 0.5, 1.0, -0.0, 1e308])
LEAVES = st.none() | st.booleans() | NUMBERS | st.sampled_from([float("nan"), float("inf"), -float("inf")]) | TEXTS
VALUES = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=2), max_leaves=4
)


def places_in(content, path=()):
    """Every path to an entry, the nested ones included."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places_in(value, (*path, key))


@st.composite
def damaged(draw, content, most=3):
    """The content with up to some entries changed."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, most))):
        places = list(places_in(content))
        if not places:
            break
        path = draw(st.sampled_from(places))
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        change(draw, parent, path[-1])
    return content


def change(draw, parent, key):
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "repeat"]))
    if how == "replace":
        parent[key] = draw(VALUES)
    elif how == "remove":
        del parent[key]
    elif isinstance(parent, dict):
        parent[draw(TEXTS)] = draw(VALUES) if how == "add" else copy.deepcopy(parent[key])
    else:
        parent.append(copy.deepcopy(parent[key]))
