import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import REPOSITORY, missmod_commands

from nnunetv2_missmod import __version__
from nnunetv2_missmod.cli import main as commands
from nnunetv2_missmod.cli.demo_job import CommandFailedError
from nnunetv2_missmod.cli.exit_codes import SOME_FAILED, TO_BE_CHECKED, USERS_MISTAKE
from nnunetv2_missmod.cli.main import main
from nnunetv2_missmod.datasets.phantom.cohort import write_phantom_dataset
from nnunetv2_missmod.host.doors import VARIABLE, door_folder, door_names
from nnunetv2_missmod.machine.workers import INTERRUPTED, TERMINATED

SMALL = ["--training", "1", "--test", "1", "--size", "32"]
SIGNATURE = inspect.signature(write_phantom_dataset)
VERBS = (
    *("doors", "run", "doctor", "phantom", "convert", "availability", "fingerprint", "restore-labels", "plan"),
    *("models", "predict", "evaluate", "calibrate", "report", "demo", "completion"),
)


@pytest.fixture(autouse=True)
def no_folders(monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.nii.gz"))


def one_line(text):
    assert text.startswith("missmod: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


# --- the parser -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["doors", "--loud"], ["phantom", "--size", "big"]])
def test_arguments_that_cannot_be_read_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: missmod" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    helped = capsys.readouterr().out
    assert all(re.search(rf"^    {verb}\b", helped, re.MULTILINE) for verb in VERBS)


def test_every_verb_is_a_module_with_its_own_help(capsys):
    assert tuple(commands.VERBS) == VERBS
    for verb in VERBS:
        assert commands.VERBS[verb].__name__ == f"nnunetv2_missmod.cli.{verb.replace('-', '_')}"
        with pytest.raises(SystemExit) as exit_:
            main([verb, "--help"])
        assert exit_.value.code == 0
        assert f"usage: missmod {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_sentence_and_an_example_that_is_parsed(verb, capsys):
    module = commands.VERBS[verb]
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    helped = capsys.readouterr().out
    assert re.fullmatch(r"[A-Z].*\.", module.SENTENCE)
    assert module.SENTENCE in helped
    assert f"example:\n  {module.EXAMPLE}\n" in helped
    (words, *_) = missmod_commands(module.EXAMPLE)
    assert words[0] == verb
    commands.build_parser().parse_args(words)


@pytest.mark.parametrize(
    ("typed", "said"), [("predcit", "did you mean predict?"), ("restore_labels", "did you mean restore-labels?")]
)
def test_a_mistyped_verb_suggests_the_nearest(typed, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([typed, "-d", "5"])
    assert exit_.value.code == 2
    assert f"there is no verb {typed!r}: {said}" in capsys.readouterr().err


def test_a_word_that_is_like_no_verb_lists_them(capsys):
    with pytest.raises(SystemExit):
        main(["xyzzy"])
    error = capsys.readouterr().err
    assert all(verb in error.partition("they are ")[2] for verb in VERBS)


def test_the_module_is_the_command():
    start = [sys.executable, "-m", "nnunetv2_missmod"]
    done = subprocess.run([*start, "doors"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{door_folder()}\n"
    done = subprocess.run([*start, "phantom"], capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_the_help_documents_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    helped = capsys.readouterr().out
    codes = (0, SOME_FAILED, USERS_MISTAKE, TO_BE_CHECKED, INTERRUPTED, TERMINATED)
    assert re.findall(r"\b\d+(?=  +\w)", helped.partition("exit codes:")[2]) == [str(code) for code in codes]


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"nnunetv2_missmod {__version__}\n"
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_arguments_of_the_process_are_read_when_none_are_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["missmod", "doors"])
    assert main() == 0
    assert capsys.readouterr().out == f"{door_folder()}\n"


# --- doors ------------------------------------------------------------------------------------------------------------


def test_doors_prints_the_folder_alone(capsys):
    assert main(["doors"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{door_folder()}\n"
    assert printed.err == ""


def test_doors_is_quick():
    """It stands in people's shell profiles: neither torch nor nnU-Net nor numpy is imported."""
    slow = {"torch", "nnunetv2", "numpy", "SimpleITK", "rich"}
    script = (
        "import sys, nnunetv2_missmod.cli.main as c\n"
        f"assert not {slow} & set(sys.modules), 'import'\n"
        "assert c.main(['doors']) == 0\n"
        f"assert not {slow} & set(sys.modules), 'doors'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(door_folder())


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """What `missmod run` would become: (file, arguments, environment)."""
    calls = []
    script = tmp_path / "nnUNetv2_train"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    class BecameTheCommandError(BaseException):
        """os.execve does not return."""

    def execve(*call):
        calls.append(call)
        raise BecameTheCommandError

    def become(*arguments):
        with pytest.raises(BecameTheCommandError):
            main(["run", *arguments])
        return calls.pop()

    monkeypatch.setattr(os, "execve", execve)
    return become


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("137", "3d_fullres", "0", "-tr", "DCSegTrainer", "--c"),
        ("-d", "501", "-o", "here", "--size", "5", "--npz"),
        ("-h",),
        ("--help",),
        ("137", "3d_fullres", "all", "-h"),
        ("--", "-x", "--"),
        ("run", "doors"),
        ("a b", "", "$HOME", "ä"),
    ],
)
def test_run_hands_the_arguments_on_untouched(arguments, executed, tmp_path):
    command = str(tmp_path / "nnUNetv2_train")
    file, handed_on, _ = executed("nnUNetv2_train", *arguments)
    assert file == command
    assert handed_on == [command, *arguments]


def test_run_sets_the_variable_and_keeps_the_rest(executed, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/my/trainers")
    monkeypatch.setenv("nnUNet_raw", "/my/raw")
    _, _, environment = executed("nnUNetv2_train")
    assert environment == {**os.environ, VARIABLE: os.pathsep.join([str(door_folder()), "/my/trainers"])}
    assert os.environ[VARIABLE] == "/my/trainers"


def test_run_without_a_command_exits_with_2(capsys):
    try:
        code = main(["run"])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert "command" in capsys.readouterr().err


def test_run_of_an_unknown_command(executed, capsys):
    assert main(["run", "nnUNetv2_trian", "137"]) == 2
    assert "nnUNetv2_trian" in one_line(capsys.readouterr().err)


def test_run_really_becomes_the_command(tmp_path):
    script = tmp_path / "show"
    script.write_text(f'#!/bin/sh\necho "$@"; echo "${VARIABLE}"; exit 7\n')
    script.chmod(0o755)
    start = ["-c", "from nnunetv2_missmod.cli.main import main; main()", "run", "show", "-d", "5", "--c", "-h"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, *start], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stdout == f"-d 5 --c -h\n{door_folder()}\n"


# --- doctor -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1])
def test_doctor_gives_the_exit_code_of_the_doctor(code, monkeypatch):
    monkeypatch.setattr("nnunetv2_missmod.cli.installation.run_doctor", lambda looked_at, as_json: code)
    assert main(["doctor"]) == code


# --- phantom ----------------------------------------------------------------------------------------------------------


def test_phantom_writes_to_a_given_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "not_here"))
    assert main(["phantom", "-o", str(tmp_path / "out"), *SMALL]) == 0
    folder = tmp_path / "out" / "Dataset501_Phantom"
    assert capsys.readouterr().out == f"{folder}\n"
    channels = [f"_{channel:04d}" for channel in range(4)]
    expected = [f"imagesTr/phantom_000{channel}.nii.gz" for channel in channels]
    expected += [f"imagesTs/phantom_001{channel}.nii.gz" for channel in channels]
    assert files(folder) == [*expected, "labelsTr/phantom_000.nii.gz", "labelsTs/phantom_001.nii.gz"]
    assert not (tmp_path / "not_here").exists()


def test_phantom_writes_to_nnunet_raw(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert main(["phantom", "-d", "7", "--modalities", "2", *SMALL]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'Dataset007_Phantom'}\n"
    dataset = json.loads((tmp_path / "Dataset007_Phantom" / "dataset.json").read_text())
    assert len(dataset["channel_names"]) == 2


@pytest.mark.parametrize("value", [None, ""])
def test_phantom_without_a_folder_is_an_error(value, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    if value is not None:
        monkeypatch.setenv("nnUNet_raw", value)
    assert main(["phantom", *SMALL]) == 2
    error = one_line(capsys.readouterr().err)
    assert "-o" in error
    assert "nnUNet_raw" in error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def arguments_of_phantom(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "nnunetv2_missmod.datasets.phantom.cohort.write_phantom_dataset",
        lambda *a, **k: calls.append((a, k)) or "folder",
    )

    def of(*flags):
        assert main(["phantom", "-o", str(tmp_path), *flags]) == 0
        return calls.pop()

    return of


def test_every_flag_of_phantom_arrives(arguments_of_phantom, tmp_path):
    flags = "-d 12 --training 3 --test 5 --modalities 6 --size 40 --incomplete 0.25 --hard --seed 9"
    assert arguments_of_phantom(*flags.split()) == (
        (tmp_path, 12),
        {
            "num_training": 3,
            "num_test": 5,
            "num_modalities": 6,
            "shape": (40, 40, 40),
            "incomplete": 0.25,
            "hard": True,
            "seed": 9,
        },
    )


def test_the_defaults_of_phantom_are_those_of_the_function(arguments_of_phantom, tmp_path):
    positional, keywords = arguments_of_phantom()
    defaults = {name: parameter.default for name, parameter in SIGNATURE.parameters.items()}
    assert positional == (tmp_path, defaults["dataset_id"])
    assert keywords == {name: defaults[name] for name in keywords}
    assert set(defaults) - set(keywords) == {"raw", "dataset_id", "name", "spacing"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--modalities", "1"], "got 1"),
        (["--size", "31"], "31"),
        (["--incomplete", "1.5"], "1.5"),
        (["--incomplete", "-0.5"], "-0.5"),
        (["--training", "0"], "got 0"),
        (["--test", "0"], "got 0"),
        (["-d", "1000"], "1000"),
        (["--seed", "-1"], "-1"),
    ],
)
def test_bad_values_of_phantom_are_said_in_a_line(flags, said, tmp_path, capsys):
    assert main(["phantom", "-o", str(tmp_path), *flags]) == 2
    printed = capsys.readouterr()
    assert said in one_line(printed.err)
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_phantom_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "Dataset501_Mine").mkdir()
    assert main(["phantom", "-o", str(tmp_path), *SMALL]) == 2
    assert "501" in one_line(capsys.readouterr().err)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Dataset501_Mine"]


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_of_an_unknown_trainer_names_the_known_ones(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--trainer", "Nonsense"]) == 2
    error = one_line(capsys.readouterr().err)
    assert "'Nonsense'" in error
    assert [name for name in door_names() if name in error] == [n for n in door_names() if "Pretrain" not in n]
    assert not (tmp_path / "demo").exists()


def test_the_flags_of_demo_arrive(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("nnunetv2_missmod.cli.demo_job.run_demo", lambda *arguments: calls.append(arguments))
    assert main(["demo"]) == 0
    assert main(["demo", "-o", str(tmp_path), "-tr", "ModalityDropoutTrainer", "-device", "cuda", "--overwrite"]) == 0
    assert main(["demo", "--trainer", "ModalityDropoutTrainer", "--device", "mps"]) == 0
    assert main(["demo", "-tr", "ACNTrainer", "--subset", "FLAIR+T2"]) == 0
    here = Path("missmod_demo")
    assert calls == [
        (here, "DCSegTrainer", "cpu", False, None),
        (tmp_path, "ModalityDropoutTrainer", "cuda", True, None),
        (here, "ModalityDropoutTrainer", "mps", False, None),
        (here, "ACNTrainer", "cpu", False, "FLAIR+T2"),
    ]


def test_other_errors_are_not_swallowed(monkeypatch):
    def fail(*_):
        raise RuntimeError("a command of nnU-Net failed")

    monkeypatch.setattr("nnunetv2_missmod.cli.demo_job.run_demo", fail)
    with pytest.raises(RuntimeError, match="failed"):
        main(["demo"])


def test_a_demo_whose_command_failed_says_so_without_a_traceback(monkeypatch, capsys):
    def fail(*_):
        raise CommandFailedError("nnUNetv2_train failed. The end of log.txt: no space left")

    monkeypatch.setattr("nnunetv2_missmod.cli.demo_job.run_demo", fail)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "missmod: nnUNetv2_train failed. The end of log.txt: no space left\n"
