"""``diffodesic paths``: what it writes, and one line for everything that can be wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffodesic.cli import main as cli
from diffodesic.output.folder import replace_files
from diffodesic.output.manifest import Run
from diffodesic.transitions.molecules import from_amber
from diffodesic.transitions.structures import follow

FAST = ("--nodes", "16", "--langevin-steps", "8", "--paths", "30")
WELL = ("--potential", "double-well", "--from", "-1,0", "--to", "1,0")
OUTPUTS = {"paths.npz", "result.json", "run.json", "landscape.png", "profiles.png", "report.html"}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Run ``diffodesic paths`` in a folder of its own: exit code, standard output, error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", tuple(dict.fromkeys((*cli.COMMANDS, "paths"))))

    def command(*words: object) -> tuple[int, str, str]:
        try:
            code = cli.main(["paths", *(str(word) for word in words)])
        except SystemExit as leaving:  # argparse's way out
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_it_writes_paths_pictures_and_a_page(run: Command, tmp_path: Path):
    code, out, err = run(*WELL, *FAST, "--seed", 3)
    assert code == 0, err
    assert "MaxEnergy of 30 paths" in out
    folder = tmp_path / "out"
    assert {file.name for file in folder.iterdir()} == OUTPUTS
    content = json.loads((folder / "result.json").read_text("utf-8"))
    with np.load(folder / "paths.npz") as arrays:
        assert arrays["frames"].shape == (30, 17, 2)
        assert arrays["energies"].shape == (30, 17)
        assert content["max_energy"]["mean"] == pytest.approx(arrays["max_energy"].mean())
        # the highest state of a path is no lower than any of its kept frames
        assert (arrays["max_energy"] >= arrays["energies"].max(1)).all()
    assert content["lowest_pass"]["energy"] == pytest.approx(10, abs=0.01)
    low, high = content["max_energy"]["interval_95"]
    assert low < content["max_energy"]["mean"] < high
    assert content["energy_evaluations"] == 30 * (1 + 8 * 17)
    assert content["settings"]["seed"] == 3
    page = (folder / "report.html").read_text("utf-8")
    assert "{{" not in page
    assert not re.search(r"""(src|href)=["']?(?!["']?data:)""", page)
    for name in ("landscape.png", "profiles.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300


def test_the_same_seed_gives_the_same_paths(run: Command, tmp_path: Path):
    with replace_files(tmp_path / "a", Run(command="paths")) as earlier:  # with a molecule
        (earlier / "structures.pdb").touch()
    for folder in ("a", "b"):
        assert run(*WELL, *FAST, "--outdir", folder)[0] == 0
    with np.load(tmp_path / "a/paths.npz") as a, np.load(tmp_path / "b/paths.npz") as b:
        assert np.array_equal(a["frames"], b["frames"])
    assert {file.name for file in (tmp_path / "a").iterdir()} == OUTPUTS


def test_a_potential_of_ones_own(run: Command, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def energy(x):\n    return 5 * (x[..., 0] ** 2 - 1) ** 2 + 10 * x[..., 1] ** 2\n"
    )
    code, _, err = run(
        "--potential", "mine.py:energy", "--kT", 1, "--unit", "kT", "--box=-2,2,-1.5,1.5",
        "--period", "none", "--from", "-1,0", "--to", "1,0", *FAST,
    )  # fmt: skip
    assert code == 0, err
    content = json.loads((tmp_path / "out/result.json").read_text("utf-8"))
    assert content["lowest_pass"]["energy"] == pytest.approx(5, abs=0.01)


def test_states_are_relaxed_where_asked(run: Command, tmp_path: Path):
    code, out, err = run(
        "--potential", "double-well", "--from", "-0.8,0.3", "--to", "1,0", "--relax", *FAST
    )
    assert code == 0, err
    assert "the first state was (-0.8, 0.3)" in out
    states = json.loads((tmp_path / "out/result.json").read_text("utf-8"))["states"]
    assert states[0] == pytest.approx([-1, 0], abs=1e-4)


@pytest.fixture(scope="module")
def left_handed_helix(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A structure at the minimum with phi > 0 of the shipped surface; those of the data are not."""
    folder = data_folder / "alanine"
    stem = folder / "amber/alanine-dipeptide"
    found = from_amber(f"{stem}.prmtop", f"{stem}.crd")
    near = found.read(folder / "AD_c7ax.pdb")
    path = torch.stack([found.phi_psi(near), torch.tensor([0.82, 1.02], dtype=torch.float64)])
    file = tmp_path_factory.mktemp("states") / "helix.pdb"
    found.trajectory(follow(found, path, near, near).structures[-1:]).save_pdb(str(file))
    return file


@pytest.fixture
def molecule(data_folder: Path, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words that name alanine dipeptide and two of its states."""
    pytest.importorskip("openmm", reason="molecules need openmm, of diffodesic[molecules]")
    pytest.importorskip("mdtraj", reason="molecules need mdtraj, of diffodesic[molecules]")
    folder = data_folder / "alanine"
    stem = folder / "amber/alanine-dipeptide"
    system = f"{stem}.prmtop,{stem}.crd"
    last = request.getfixturevalue("left_handed_helix")  # which needs openmm
    return ("--system", system, "--from", f"{folder}/AD_A.pdb", "--to", str(last))


def test_a_molecule_leaves_structures(run: Command, tmp_path: Path, molecule: tuple[str, ...]):
    mdtraj = pytest.importorskip("mdtraj")
    code, out, err = run(*molecule, "--relax", *FAST, "--frames", 9)
    assert code == 0, err
    assert "9 structures, torsions within" in out
    folder = tmp_path / "out"
    names = {"structures.pdb", "structures.dcd", "structures.csv"}
    assert {file.name for file in folder.iterdir()} == OUTPUTS | names
    found = mdtraj.load(str(folder / "structures.dcd"), top=str(folder / "structures.pdb"))
    table = np.genfromtxt(folder / "structures.csv", delimiter=",", names=True)
    for name, angles in (("phi", mdtraj.compute_phi), ("psi", mdtraj.compute_psi)):
        reached = np.degrees(angles(found)[1][:, 0])
        off = np.abs((reached - table[f"{name}_asked_degrees"] + 180) % 360 - 180)
        assert off.max() < 5
    energies = json.loads((folder / "result.json").read_text("utf-8"))["structures"]
    assert table["energy_kJ_mol"] == pytest.approx(energies["energies_kJ_mol"], abs=1e-4)


def refused(run: Command, *words: object) -> str:
    """The one line of an error, which leaves no result behind."""
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("diffodesic")
    assert "Traceback" not in err
    assert not (Path("out") / "result.json").exists()
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "-5,0", "--to", "1,0"), "first state (-5, 0) lies outside the domain"),
        (("--from", "-0.5,0", "--to", "1,0"), "is no minimum: (-0.5, 0) with U = 5.625"),
        (("--from", "-0.5,0", "--to", "1,0"), "--relax"),
        (("--from", "-1,0", "--to", "-1,0.01"), "both states belong to the minimum"),
        (("--from", "-1,0,0", "--to", "1,0"), "has 3 coordinates"),
        (("--from", "left", "--to", "1,0"), "a PDB file needs --system"),
        (
            ("--from", "-1,0", "--to", "1,0", "--paths", "10"),
            "a confidence interval needs at least 30",
        ),
        (("--from", "-1,0", "--to", "1,0", "--kT", "-1"), "kT must be a positive"),
        (("--from", "-1,0"), "--to"),
    ],
)
def test_states_and_numbers_that_cannot_be_right(
    run: Command, words: tuple[str, ...], message: str
):
    assert message in refused(run, "--potential", "double-well", *words)


def test_a_step_that_explodes_is_named(run: Command):
    small = ("--nodes", "8", "--langevin-steps", "20", "--paths", "30")
    assert "step 1 makes the dynamics" in refused(run, *WELL, *small, "--step", 1, "--uncorrected")
    assert "steps of length 10 are accepted" in refused(run, *WELL, *small, "--step", 10)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x", "it must return a tensor of shape"),
        ("0 * x[..., 0] / 0", "returned NaN"),
        ("x[..., 0] ** 2", "said to have period 6.28"),
        ("x[..., 0].float()", "returned float32 for points in float64"),
        ("x[..., 0].add_(1)", "changes its points in place"),
        ("x[..., 0] + torch.randn(())", "gives another energy for the same point"),
        ("x[..., 0] - x[..., 0].mean()", "depends on the other points of the call"),
        ("x[:, 0] + 0 * x.sum(-1)", "depends on the other points of the call"),
        ("{}[1]", "raised KeyError: 1, for points of shape (16, 2)"),
        ("exit(0)", "raised SystemExit: 0, for points"),
        ("x[..., 0] + torch.ones(7)", "raised RuntimeError: The size of tensor a (16)"),
    ],
)
def test_a_potential_that_is_wrong(run: Command, tmp_path: Path, body: str, message: str):
    (tmp_path / "mine.py").write_text(f"import torch\ndef energy(x):\n    return {body}\n")
    period = "6.28,none" if "**" in body else "none"
    words = ("--potential", "mine.py:energy", "--kT", 1, "--unit", "kT", "--period", period)
    ends = ("--from", "-1,0", "--to", "1,0")
    assert message in refused(run, *words, "--box=-3.14,3.14,-1,1", *ends)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import sys\nsys.exit(0)\n", "mine.py cannot be run (SystemExit: 0); correct it"),
        ("import nowhere_to_be_found\n", "mine.py cannot be run (ModuleNotFoundError: No module"),
        ("def energy(x:\n", "mine.py cannot be run (SyntaxError: "),
        ("1 / 0\n", "mine.py cannot be run (ZeroDivisionError: division by zero)"),
    ],
)
def test_a_file_that_cannot_be_run(run: Command, tmp_path: Path, content: str, message: str):
    (tmp_path / "mine.py").write_text(content)
    assert message in refused(run, "--potential", "mine.py:energy", "--from", "0", "--to", "1")


WHOLE = """
from diffodesic.transitions.potentials import DoubleWell
energy = DoubleWell()
class Random(DoubleWell):
    def energy(self, x):
        return super().energy(x) + x.new_empty(x.shape[:-1]).normal_()
random = Random()
"""


def test_a_whole_potential_of_ones_own(run: Command, tmp_path: Path):
    """It is tried too, takes another temperature, and what it says itself is not said again."""
    (tmp_path / "mine.py").write_text(WHOLE)
    ends = ("--from=-1,0", "--to=1,0", *FAST)
    own = refused(run, "--potential", "mine.py:energy", "--unit", "kT", "--period=none", *ends)
    assert "mine.py:energy has its own --unit, --period: leave it out" in own
    assert "for the same point" in refused(run, "--potential", "mine.py:random", *ends)
    code, _, err = run("--potential", "mine.py:energy", "--kT", 2, *ends)
    assert code == 0, err
    content = json.loads((tmp_path / "out/result.json").read_text("utf-8"))
    assert content["settings"]["kT"] == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0 * x.sum(-1)", "has the curvature 0 at its states"),
        ("9e3 * ((x[..., 0] ** 2 - 1) ** 2 + x[..., 1] ** 2)", "have the log SNR 11.2 of their"),
    ],
)
def test_basins_without_a_level_of_noise(run: Command, tmp_path: Path, body: str, message: str):
    (tmp_path / "mine.py").write_text(f"def energy(x):\n    return {body}\n")
    words = ("--potential", "mine.py:energy", "--kT", 1, "--unit", "kT", "--period", "none")
    ends = ("--from=-1,0", "--to=1,0", *FAST)
    assert message in refused(run, *words, "--box=-2,2,-2,2", *ends)


def test_units_and_periods_must_be_said(run: Command, tmp_path: Path):
    (tmp_path / "mine.py").write_text("def energy(x):\n    return x[..., 0] ** 2\n")
    ends = ("--from", "-1,0", "--to", "1,0")
    line = refused(run, "--potential", "mine.py:energy", "--kT", 1, *ends)
    assert "--unit, --box, --period" in line
    (tmp_path / "table.dat").write_text("0 0 1\n")
    assert "--kT, --unit" in refused(run, "--potential", "table.dat", *ends)
    table = ("--potential", "table.dat", "--kT", 1, "--unit", "kT")
    assert "table.dat" in refused(run, *table, *ends)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        ("nowhere", "choose one of double-well, mueller-brown, dual-channel, ring, alanine"),
        ("nowhere.py:energy", "nowhere.py is not a file"),
    ],
)
def test_potentials_that_are_not_there(run: Command, potential: str, message: str):
    ends = ("--from", "-1,0", "--to", "1,0")
    assert message in refused(run, "--potential", potential, *ends)


def test_something_to_sample_must_be_given(run: Command):
    assert "--potential" in refused(run, "--from", "-1,0", "--to", "1,0")


def test_molecules_that_do_not_fit(run: Command, tmp_path: Path, molecule: tuple[str, ...]):
    _, system, _, first, _, last = molecule
    whole = Path(first).read_text("utf-8").splitlines()
    (tmp_path / "part.pdb").write_text("\n".join(line for line in whole if " HB1 " not in line))
    ends = ("--from", first, "--to", "part.pdb")
    assert "part.pdb has 21 atoms" in refused(run, "--system", system, *ends)
    ends = ("--from", first, "--to", last)
    assert "two files" in refused(run, "--system", "one.prmtop", *ends)
    assert "is not a file" in refused(run, "--system", "one.prmtop,two.crd", *ends)
    assert "solvent" in refused(run, "--system", system, *ends, "--solvent", "water")
    # the shipped surface has no state at this structure
    ends = ("--from", first, "--to", str(Path(first).parent / "AD_c7ax.pdb"))
    assert "no minimum" in refused(run, "--system", system, *ends)
    # and from this one steepest descent leads to another state, 80 degrees away
    ends = ("--from", first, "--to", str(Path(first).parent / "AD_B.pdb"))
    assert "80 degrees away" in refused(run, "--system", system, *ends, "--relax")
    # two atoms change their columns of coordinates
    rows = [i for i, line in enumerate(whole) if " HA " in line or " HB1 " in line]
    swapped = list(whole)
    for i, j in (rows, rows[::-1]):
        swapped[i] = whole[i][:30] + whole[j][30:54] + whole[i][54:]
    (tmp_path / "swapped.pdb").write_text("\n".join(swapped))
    ends = ("--from", "swapped.pdb", "--to", last)
    line = refused(run, "--system", system, *ends, "--relax")
    assert "swapped.pdb: atom 9 (CA) and atom 10 (HA)" in line


def test_degrees_are_not_taken_for_radians(run: Command):
    ends = ("--from=-146,160", "--to", "47,58", "--relax")
    assert "radians" in refused(run, "--potential", "alanine", *ends)


def test_a_table_is_read_or_its_line_named(run: Command, tmp_path: Path):
    ends = ("--potential", "table.dat", "--kT", 1, "--unit", "kT", "--from", "0,0", "--to", "3,3")
    (tmp_path / "table.dat").write_bytes("# Universit\xe9\n0 0 1\n1 0 inf\n".encode("latin-1"))
    assert "table.dat, line 3: inf" in refused(run, *ends)


def test_a_missing_openmm_names_the_extra(
    run: Command, molecule: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "openmm", None)
    assert "diffodesic[molecules]" in refused(run, *molecule)
