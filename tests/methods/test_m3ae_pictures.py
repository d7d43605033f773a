"""The pictures of M3AE's pretraining: what is in the figures, and that the files can be read."""

import warnings
from itertools import product

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread

from nnunetv2_missmod.methods.m3ae.pictures import (
    HIDDEN,
    central_patch,
    draw_progress,
    draw_reconstruction,
    draw_substitute,
)
from nnunetv2_missmod.modalities import all_subsets, subset_name

pytestmark = pytest.mark.slow

NAMES = ["FLAIR", "T1", "T1c", "T2", "PD"]
on_modalities = pytest.mark.parametrize("modalities", [1, 2, 4])
on_patch = pytest.mark.parametrize(("patch", "grid"), [((6, 8, 10), (3, 4, 5)), ((8, 10), (4, 5))], ids=["3D", "2D"])


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as well as their files."""
    saved = []
    save = Figure.savefig

    def keep(figure, *arguments, **settings):
        saved.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture
def unsaved(monkeypatch):
    """The figures alone: rendering them takes most of the time."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **settings: drawn.append(figure))
    return drawn


def assert_readable(file):
    picture = imread(file)
    assert picture.ndim == 3
    assert min(picture.shape[:2]) > 100
    assert picture.std() > 0


# --- the middle of a case ---------------------------------------------------------------------------------------------


def plain_central_patch(images, patch):
    out = np.zeros((len(images), *patch), images.dtype)
    for index in product(*(range(side) for side in patch)):
        offsets = [(size - side) // 2 for size, side in zip(images.shape[1:], patch, strict=True)]
        source = [i + o for i, o in zip(index, offsets, strict=True)]
        if all(0 <= i < size for i, size in zip(source, images.shape[1:], strict=True)):
            out[(slice(None), *index)] = images[(slice(None), *source)]
    return out


@pytest.mark.parametrize(
    "patch",
    [(3, 4, 5), (2, 2, 2), (6, 7, 8), (10, 9, 12), (7, 8, 9), (2, 9, 8), (10, 3, 11)],
    ids=lambda patch: " x ".join(map(str, patch)),
)
def test_the_middle_is_cut_out_and_filled_up_with_zeros(patch):
    images = np.random.default_rng(0).normal(size=(2, 6, 7, 8)).astype(np.float32)
    kept = images.copy()
    cut = central_patch(images, patch)
    assert cut.dtype == np.float32
    np.testing.assert_array_equal(cut, plain_central_patch(images, patch))
    np.testing.assert_array_equal(images, kept)


@pytest.mark.parametrize("depth", [1, 4, 5])
@pytest.mark.parametrize("patch", [(5, 6), (9, 10), (4, 11)])
def test_a_patch_of_two_sides_is_of_the_middle_slice(depth, patch):
    images = np.random.default_rng(0).normal(size=(3, depth, 7, 8)).astype(np.float32)
    cut = central_patch(images, patch)
    np.testing.assert_array_equal(cut, plain_central_patch(images[:, {1: 0, 4: 2, 5: 2}[depth]], patch))


def test_a_plan_s_list_of_sides_will_do():
    images = np.ones((2, 6, 7, 8), np.float32)
    np.testing.assert_array_equal(central_patch(images, [4, 4, 4]), np.ones((2, 4, 4, 4)))


# --- what is rebuilt --------------------------------------------------------------------------------------------------


def random_case(modalities, patch, grid, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(modalities, *patch, generator=generator)
    visible = torch.rand(modalities, *grid, generator=generator) < 0.4
    return images, visible, images + 0.3 * torch.randn(images.shape, generator=generator)


def middle_slice(image):
    return image if image.ndim == 2 else image[image.shape[0] // 2]


def hidden_voxels(blocks, patch):
    """The voxels of the blocks that are not visible; the grid divides the patch."""
    hidden = np.ones(patch, bool)
    for index in product(*(range(n) for n in blocks.shape)):
        sides = [side // n for side, n in zip(patch, blocks.shape, strict=True)]
        if blocks[index]:
            hidden[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, sides, strict=True))] = False
    return hidden


@on_modalities
@on_patch
def test_a_reconstruction_has_a_row_per_modality(modalities, patch, grid, figures, tmp_path):
    images, visible, reconstruction = random_case(modalities, patch, grid)
    kept = images.clone()
    file = tmp_path / "reconstruction.png"
    draw_reconstruction(file, NAMES[:modalities], images, visible, reconstruction)
    assert_readable(file)
    (figure,) = figures
    assert len(figure.axes) == 3 * modalities
    assert torch.equal(images, kept)
    rows = np.array(figure.axes).reshape(modalities, 3)
    assert [[axis.get_title() for axis in row] for row in rows] == [
        [f"{name}: visible", f"{name}: reconstruction", f"{name}: truth"] for name in NAMES[:modalities]
    ]
    for m, row in enumerate(rows):
        seen, rebuilt, truth = (axis.images[0].get_array() for axis in row)
        np.testing.assert_array_equal(np.ma.getmaskarray(seen), middle_slice(hidden_voxels(visible[m], patch)))
        np.testing.assert_array_equal(seen.compressed(), middle_slice(images[m]).numpy()[~seen.mask])
        np.testing.assert_array_equal(rebuilt, middle_slice(reconstruction[m]).numpy())
        np.testing.assert_array_equal(truth, middle_slice(images[m]).numpy())


def test_the_pictures_of_a_row_share_the_range_of_the_truth(unsaved, tmp_path):
    images, visible, reconstruction = random_case(2, (6, 8, 10), (3, 4, 5))
    images[1] *= 100
    draw_reconstruction(tmp_path / "reconstruction.png", NAMES[:2], images, visible, 50 * reconstruction)
    rows = np.array(unsaved[0].axes).reshape(2, 3)
    for m, row in enumerate(rows):
        expected = np.quantile(images[m].numpy(), [0.01, 0.99])
        for axis in row:
            np.testing.assert_allclose(axis.images[0].get_clim(), expected, rtol=1e-6)


def test_what_is_hidden_has_a_colour_that_no_grey_value_has(unsaved, tmp_path):
    images, visible, reconstruction = random_case(1, (8, 10), (4, 5))
    draw_reconstruction(tmp_path / "reconstruction.png", NAMES[:1], images, visible, reconstruction)
    cmap = unsaved[0].axes[0].images[0].get_cmap()
    assert tuple(cmap.get_bad()) == pytest.approx(to_rgba(HIDDEN))
    red, green, blue, _ = cmap.get_bad()
    assert not red == green == blue
    assert cmap(0.5)[0] == cmap(0.5)[1] == cmap(0.5)[2]


@on_patch
def test_an_absent_modality_is_drawn_too(patch, grid, figures, tmp_path):
    images, visible, reconstruction = random_case(3, patch, grid)
    images[1], visible[1] = 0, False
    images[2] = 4.5  # and a constant one
    draw_reconstruction(tmp_path / "reconstruction.png", NAMES[:3], images, visible, reconstruction)
    assert_readable(tmp_path / "reconstruction.png")
    seen = figures[0].axes[3].images[0].get_array()
    assert np.ma.getmaskarray(seen).all()


def test_everything_visible_hides_nothing(unsaved, tmp_path):
    images, visible, reconstruction = random_case(2, (8, 10), (4, 5))
    draw_reconstruction(tmp_path / "picture.png", NAMES[:2], images, torch.ones_like(visible), reconstruction)
    assert not np.ma.getmaskarray(unsaved[0].axes[0].images[0].get_array()).any()


# --- x_sub ------------------------------------------------------------------------------------------------------------


@on_modalities
@on_patch
def test_a_substitute_is_drawn_in_the_range_of_its_image_with_its_own_in_words(
    modalities, patch, grid, figures, tmp_path
):
    substitute, _, images = random_case(modalities, patch, grid)
    substitute[:, 0], substitute[:, -1] = -20.44, 9.46  # outside the middle slice of a volume
    file = tmp_path / "substitute.png"
    draw_substitute(file, NAMES[:modalities], substitute, images)
    assert_readable(file)
    (figure,) = figures
    assert [axis.get_title() for axis in figure.axes] == [f"{name}: -20 to 9.5" for name in NAMES[:modalities]]
    for m, axis in enumerate(figure.axes):
        np.testing.assert_array_equal(axis.images[0].get_array(), middle_slice(substitute[m]).numpy())
        assert axis.images[0].get_clim() == pytest.approx(tuple(np.quantile(images[m], (0.01, 0.99))), rel=1e-6)


def test_noise_that_is_small_beside_the_images_is_grey(figures, tmp_path):
    """Its own range would stretch it to black and white."""
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 2, 32, 32, generator=generator)
    draw_substitute(tmp_path / "substitute.png", NAMES[:2], 0.02 * noise, images)
    for axis in figures[0].axes:
        picture = axis.images[0]
        assert float(picture.norm(picture.get_array()).std()) < 0.02


def test_a_modality_that_the_case_lacks_lends_the_range_of_the_others(figures, tmp_path):
    images = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[1] = 0
    draw_substitute(tmp_path / "substitute.png", NAMES[:3], torch.randn(3, 16, 16), images)
    limits = [axis.images[0].get_clim() for axis in figures[0].axes]
    assert limits[1] == pytest.approx(tuple(np.quantile(images, (0.01, 0.99))), rel=1e-6)
    assert limits[0] != limits[2]


@on_patch
def test_a_constant_substitute_is_drawn_too(patch, grid, figures, tmp_path):
    draw_substitute(tmp_path / "substitute.png", NAMES[:2], torch.zeros(2, *patch), torch.zeros(2, *patch))
    assert_readable(tmp_path / "substitute.png")
    assert figures[0].axes[1].get_title() == "T1: 0 to 0"


# --- the curves -------------------------------------------------------------------------------------------------------


def curves_of(epochs):
    return {
        "mean_fg_dice": [0.1 * e for e in range(epochs)],
        "ema_fg_dice": [0.05 * e for e in range(epochs)],
        "dice_per_class_or_region": [[0.1, 0.2]] * epochs,
        "train_losses": [2.0 / (e + 1) for e in range(epochs)],
        "val_losses": [1.0 / (e + 1) for e in range(epochs)],
        "lrs": [1e-3 / (e + 1) for e in range(epochs)],
        "epoch_start_timestamps": [100.0 * e for e in range(epochs)],
        "epoch_end_timestamps": [100.0 * e + 30 + e for e in range(epochs)],
    }


def rows_of(modalities, epochs):
    """Rows of metrics.csv, whose values are text."""
    subsets = [subset_name(subset, NAMES[:modalities]) for subset in all_subsets(modalities)]
    values = {(epoch, name): epoch + number / 100 for epoch in range(epochs) for number, name in enumerate(subsets)}
    return subsets, [(epoch, f"reconstruction_error/{name}", f"{v:.6g}") for (epoch, name), v in values.items()]


def lines_of(axis):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}


def legend_of(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize(("modalities", "epochs"), [(1, 1), (2, 3), (4, 2)])
def test_the_progress_shows_a_line_per_subset(modalities, epochs, figures, tmp_path):
    subsets, rows = rows_of(modalities, epochs)
    draw_progress(tmp_path / "progress.png", curves_of(epochs), rows)
    assert_readable(tmp_path / "progress.png")
    (figure,) = figures
    _, errors, *_ = figure.axes
    assert errors.get_ylabel() == "reconstruction error (MSE)"
    assert list(lines_of(errors)) == legend_of(errors) == subsets
    for number, name in enumerate(subsets):
        times, values = lines_of(errors)[name]
        assert times == list(range(epochs))
        assert values == pytest.approx([epoch + number / 100 for epoch in range(epochs)])


def test_the_colour_of_a_line_is_how_many_modalities_are_visible(unsaved, tmp_path):
    _, rows = rows_of(3, 2)
    draw_progress(tmp_path / "progress.png", curves_of(2), rows)
    colours = {line.get_label(): line.get_color() for line in unsaved[0].axes[1].lines}
    sizes = {size: {colours[n] for n in colours if n.count("+") + 1 == size} for size in (1, 2, 3)}
    assert all(len(group) == 1 for group in sizes.values())
    assert len(set().union(*sizes.values())) == 3


def test_the_progress_shows_nnunet_s_curves(unsaved, tmp_path):
    curves = curves_of(4)
    draw_progress(tmp_path / "progress.png", curves, rows_of(2, 4)[1])
    losses, _, seconds, rates, explained = unsaved[0].axes
    assert lines_of(losses) == {
        "loss_tr": ([0, 1, 2, 3], curves["train_losses"]),
        "loss_val (MSE)": ([0, 1, 2, 3], curves["val_losses"]),
    }
    assert lines_of(explained) == {
        "explained variance": ([0, 1, 2, 3], curves["mean_fg_dice"]),
        "explained variance (mov. avg.)": ([0, 1, 2, 3], curves["ema_fg_dice"]),
    }
    assert lines_of(seconds)["epoch duration"][1] == [30, 31, 32, 33]
    assert lines_of(rates)["learning rate"][1] == curves["lrs"]
    for axis in (losses, explained, seconds, rates):
        assert legend_of(axis) == list(lines_of(axis))
    assert [axis.get_ylabel() for axis in (losses, explained, seconds, rates)] == [
        "loss",
        "explained variance",
        "time [s]",
        "learning rate",
    ]


def test_more_subsets_than_a_legend_can_hold_are_all_drawn(unsaved, tmp_path):
    subsets, rows = rows_of(5, 2)
    draw_progress(tmp_path / "progress.png", curves_of(2), rows)
    errors = unsaved[0].axes[1]
    assert len(errors.lines) == len(subsets) == 31
    assert legend_of(errors) == subsets[:15]


def test_subsets_that_came_later_begin_where_they_came(unsaved, tmp_path):
    """A resumed run may have another number of validation steps."""
    rows = [(0, "reconstruction_error/T1", "1"), (1, "reconstruction_error/T1", "0.5")]
    rows.append((1, "reconstruction_error/T1+T2", "0.25"))
    draw_progress(tmp_path / "progress.png", curves_of(2), rows)
    assert lines_of(unsaved[0].axes[1]) == {"T1": ([0, 1], [1.0, 0.5]), "T1+T2": ([1], [0.25])}


def test_a_modality_may_have_a_stroke_in_its_name(unsaved, tmp_path):
    draw_progress(tmp_path / "progress.png", curves_of(1), [(0, "reconstruction_error/T1/Gd+T2", "1")])
    assert legend_of(unsaved[0].axes[1]) == ["T1/Gd+T2"]


def test_the_fonts_of_other_plots_neither_get_in_nor_are_lost(unsaved, tmp_path):
    """nnU-Net's own progress.png, drawn just before, sets fonts of 2.5 times the size for the whole process."""
    images, visible, reconstruction = random_case(1, (8, 10), (4, 5))
    with mpl.rc_context({"font.size": 30.0, "axes.titlesize": 30.0, "legend.fontsize": 30.0, "axes.labelsize": 30.0}):
        draw_reconstruction(tmp_path / "reconstruction.png", NAMES[:1], images, visible, reconstruction)
        draw_substitute(tmp_path / "substitute.png", NAMES[:1], images, images)
        draw_progress(tmp_path / "progress.png", curves_of(2), rows_of(1, 2)[1])
        assert mpl.rcParams["axes.titlesize"] == 30.0
    for figure in unsaved:
        for axis in figure.axes:
            assert max(axis.title.get_fontsize(), axis.xaxis.label.get_fontsize()) < 15
