"""A bash session for the tests that run what the README and the pages of docs/ say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


class Shell:
    """A bash session whose exports last from one script to the next."""

    def __init__(self, folder: Path, commands: Path | None = None):
        """Start in a folder; ``commands`` holds those that are found before the installed ones."""
        self.folder, self.commands = folder, commands
        found_in = [str(commands)] if commands else []
        self.environment = {
            **os.environ,
            "PATH": ":".join([*found_in, str(Path(sys.executable).parent), os.environ["PATH"]]),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
        }
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
            self.environment.pop(name, None)

    def copied_to(self, folder):
        """A session on a copy of the folder: what it changes stays there."""
        shutil.copytree(self.folder, folder)
        copy, old, new = Shell(folder), str(self.folder), str(folder)
        copy.environment = {name: text.replace(old, new) for name, text in self.environment.items()}
        return copy

    def run(self, script, expected_code=0):
        """Run a script and give its output."""
        kept = self.folder / "environment"
        command = ["bash", "-euo", "pipefail", "-c", f"{script}\nenv -0 > '{kept}'"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == (expected_code == 0), output[-6000:]
        if done.returncode == 0:
            pairs = kept.read_text().split("\0")[:-1]
            self.environment = dict(pair.split("=", 1) for pair in pairs)
        return output
