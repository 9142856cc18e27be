"""What the gate says of the stored checkpoints of `tests/formats/data`, beside the specimen, their parent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from golden.keeping import compare_or_keep
from golden.reading import audit, write_shipped

STORED = Path(__file__).parents[1] / "formats" / "data"
# What has to be installed to read which.
READ_BY = {
    ("compressed_tensors",): ("W4A16", "W8A8", "FP8", "NVFP4A16", "MXFP4A16"),
    ("auto_round",): ("round",),
    ("gptqmodel", "optimum"): ("gptq", "awq"),
}
POLICY = """
[corpus]
windows = 32

[descent]
prompt_tokens = [5]
new_tokens = 32
long_new_tokens = 64
modules = 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("packages", READ_BY, ids="-".join)
def test_stored_checkpoints(packages: tuple[str, ...], tmp_path: Path) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    parent, policy = write_shipped(tmp_path), POLICY
    for end in READ_BY[packages]:
        (source,) = STORED.glob(f"*-{end}")
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        for file in parent.glob("tokenizer*"):
            shutil.copyfile(file, folder / file.name)
        policy += f'\n[[model]]\nsource = "./{folder.name}"\nparent = "./shipped/specimen"\n'
    (tmp_path / "gate.swaudit.toml").write_text(policy)
    compare_or_keep(f"gate-{'-'.join(packages)}", audit(tmp_path, "gate.swaudit.toml"))
