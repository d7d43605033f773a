"""Shell completion: what a shell offers is what the parsers know."""

import shutil
import subprocess

import pytest

from nnunetv2_missmod.cli.completion import SCRIPTS
from nnunetv2_missmod.cli.main import VERBS, build_parsers, main
from nnunetv2_missmod.host.doors import door_names


def script_of(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def offered(capsys):
    """What bash offers for a line whose last word is being typed."""

    def offer(*words):
        quoted = " ".join(f"'{word}'" for word in words)
        line = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _missmod; echo "${{COMPREPLY[@]}}"'
        script = f"{script_of('bash', capsys)}\ncomplete -p missmod >/dev/null || exit 1\n{line}"
        done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True)
        return done.stdout.split()

    return offer


def test_bash_completes_verbs(offered):
    assert offered("missmod", "") == list(VERBS)
    assert offered("missmod", "p") == ["phantom", "plan", "predict"]


def test_bash_completes_the_flags_of_a_verb(offered):
    assert offered("missmod", "evaluate", "--t") == ["--tolerance"]
    for verb, parser in build_parsers()[1].items():
        expected = [name for flag in parser.flags for name in flag.option_strings]
        assert offered("missmod", verb, "-") == expected


def test_bash_completes_the_words_of_a_flag(offered):
    assert offered("missmod", "predict", "-device", "c") == ["cuda", "cpu"]
    assert offered("missmod", "evaluate", "--empty", "") == ["nnunet", "brats", "zero", "one"]
    assert offered("missmod", "plan", "-tr", "") == [*door_names(), "nnUNetTrainer"]
    assert offered("missmod", "completion", "f") == ["fish"]


def test_bash_leaves_files_to_itself(offered):
    assert offered("missmod", "predict", "-i", "") == []
    assert offered("missmod", "report", "scores") == []


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_reads_its_script(shell, capsys):
    script = script_of(shell, capsys)
    assert all(verb in script for verb in VERBS)
    assert "tolerance" in script
    assert "nnunet brats" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.fixture
def offered_by(capsys):
    """What fish or zsh offers for a line whose last word is being typed; zsh before it looks at that word."""

    def offer(shell, *words):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        quoted = " ".join(f"'{word}'" for word in words)
        fakes = 'compdef() { : }; compadd() { shift; print -r -- "$@" }; _files() { : }'
        zsh_line = f"words=({quoted}); CURRENT={len(words)}; PREFIX='{words[-1]}'; _missmod"
        before, line = {"fish": ("", f'complete -C "{" ".join(words)}"'), "zsh": (fakes, zsh_line)}[shell]
        script = f"{before}\n{script_of(shell, capsys)}\n{line}"
        return subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    return offer


@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_fish_and_zsh_complete_verbs_flags_and_words(shell, offered_by):
    assert sorted(offered_by(shell, "missmod", "")) == sorted(VERBS)
    assert "--tolerance" in offered_by(shell, "missmod", "evaluate", "--t")
    assert sorted(offered_by(shell, "missmod", "predict", "-device", "")) == ["cpu", "cuda", "mps"]
    assert sorted(offered_by(shell, "missmod", "plan", "-tr", "")) == sorted([*door_names(), "nnUNetTrainer"])
    assert "fish" in offered_by(shell, "missmod", "completion", "f")


def test_fish_gets_flags_as_it_has_them(capsys):
    lines = script_of("fish", capsys).splitlines()
    seen = "complete -c missmod -n '__fish_seen_subcommand_from"
    assert "complete -c missmod -f -n __fish_use_subcommand -a predict" in lines
    assert f"{seen} predict' -s i -r" in lines
    assert f"{seen} predict' -o device -x -a 'cuda cpu mps'" in lines
    assert f"{seen} predict' -l resample" in lines
    assert f"{seen} completion' -x -a 'bash zsh fish'" in lines
