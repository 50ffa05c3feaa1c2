"""The door: what is found, what is read, what is refused, and how label maps leave."""

from __future__ import annotations

import re
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from measures import ORIENTATIONS

from covsev.errors import GridMismatchError, ScanError
from covsev.labels import DISCLAIMER, OUTPUT_SUFFIXES, PADDING_HU
from covsev.scan import (
    ScanSource,
    canonical_spacing_mm,
    find_scans,
    from_canonical,
    from_sitk,
    load_scan,
    make_scan,
    replacing,
    require_same_grid,
    save_labels,
    save_probability,
    to_canonical,
)

SHAPE = (20, 22, 8)
SPACING_MM = (0.8, 0.9, 3.0)
# NIfTI-1 header: byte offsets of (qform_code, sform_code, quatern_b, quatern_c, quatern_d) and of srow_x.
CODES_AT, SROW_AT = 252, 280


def hu_volume(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(-1000, 500, shape).astype(np.int16)


def oblique_affine():
    """RAS+ affine of an orthonormal grid, turned about two axes."""
    a, b = np.deg2rad(10), np.deg2rad(-7)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1, -1, 1]) @ np.diag(SPACING_MM)
    affine[:3, 3] = (11.0, -22.0, 33.0)
    return affine


def sheared_affine():
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[1, 2] = 1.5
    return affine


def scan_of(array, affine=None, header=None):
    return make_scan(array, oblique_affine() if affine is None else affine, case="case", header=header)


def cases(root):
    return [source.case for source in find_scans(root)]


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# ---- finding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("a.nii", "a"),
        ("a.nii.gz", "a"),
        ("a.b.nii.gz", "a.b"),
        ("A.NII.GZ", "A"),
        ("a.nrrd", "a"),
        ("a.nhdr", "a"),
        ("a.mha", "a"),
        ("a.mhd", "a"),
        ("week 1/Müller, Ünal.nii.gz", "week_1_Müller_Ünal"),
        ("胸部 CT.nii.gz", "胸部_CT"),
        ("p1/day2/ct.nii.gz", "p1_day2_ct"),
        ("$$.nii.gz", "scan"),
    ],
)
def test_case_is_named_by_the_relative_path(tmp_path, name, case):
    touch(tmp_path, name)
    assert cases(tmp_path) == [case]
    assert find_scans(tmp_path)[0].path == tmp_path / name


def test_other_files_are_not_scans(tmp_path):
    touch(tmp_path, "notes.txt", "a.raw", "a.nii.gz.md5", "mask.png", "README", "b.json")
    assert find_scans(tmp_path) == []


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_own_outputs_are_left_out(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}", "a.nii.gz")
    assert cases(tmp_path) == ["a"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, ".a.nii.gz", ".cache/b.nii.gz", "c/.123.c.nii.gz", "d.nii.gz")
    assert cases(tmp_path) == ["d"]


def test_a_hidden_root_is_searched(tmp_path):
    touch(tmp_path, ".hidden/a.nii.gz")
    assert cases(tmp_path / ".hidden") == ["a"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.nii", "a.nii.gz"), ["a_nii", "a_nii_gz"]),
        (("a.nii", "a.nii.gz", "a_nii.nrrd"), ["a_nii", "a_nii_gz", "a_nii_2"]),
        (("a/b.nii.gz", "a_b.nii.gz"), ["a_b_nii_gz", "a_b_nii_gz_2"]),
        (("x y.mha", "x_y.mha", "x+y.mha"), ["x_y_mha", "x_y_mha_2", "x_y_mha_3"]),
        (("one/ct.nii.gz", "two/ct.nii.gz"), ["one_ct", "two_ct"]),
    ],
)
def test_colliding_names_stay_unique(tmp_path, names, expected):
    touch(tmp_path, *names)
    assert sorted(cases(tmp_path)) == sorted(expected)


def test_order_of_cases_is_that_of_the_names(tmp_path):
    touch(tmp_path, "b.nii.gz", "z/a.nii.gz", "a.nii.gz", "c.nrrd")
    assert cases(tmp_path) == ["a", "b", "c", "z_a"]


def test_loops_of_links_do_no_harm(tmp_path):
    touch(tmp_path, "sub/a.nii.gz")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert cases(tmp_path) == ["sub_a"]


def test_twins_with_and_without_gz_read_their_own_file(tmp_path, write_nifti):
    plain, packed = hu_volume(seed=1), hu_volume(seed=2)
    write_nifti("a.nii", plain)
    write_nifti("a.nii.gz", packed)
    read = {source.case: load_scan(source).hu for source in find_scans(tmp_path)}
    np.testing.assert_array_equal(read["a_nii"], plain)
    np.testing.assert_array_equal(read["a_nii_gz"], packed)
    np.testing.assert_array_equal(load_scan(tmp_path / "a.nii.gz").hu, packed)


def test_a_file_is_its_own_root(write_nifti):
    path = write_nifti("my scan.nii.gz", hu_volume())
    assert find_scans(path) == [ScanSource("my_scan", path)]


def test_missing_root_is_named(tmp_path):
    with pytest.raises(ScanError, match=re.escape(f"{tmp_path / 'nowhere'}: no such file or folder")):
        find_scans(tmp_path / "nowhere")


# ---- reading: values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (hu_volume(), np.int16),
        (hu_volume().astype(">i2"), np.int16),
        (hu_volume().astype(np.int32), np.int16),
        (hu_volume().astype(np.int32) * 1000, np.float32),
        ((hu_volume() % 200).astype(np.uint8), np.int16),
        (hu_volume().astype(np.float32), np.int16),
        (hu_volume().astype(np.float64), np.int16),
        (hu_volume().astype(np.float32) + 0.25, np.float32),
        (hu_volume().astype(np.float64) + 0.25, np.float32),
        (hu_volume().astype(np.float32) + 100_000, np.float32),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_survive_in_the_smallest_type(write_nifti, array, dtype, suffix):
    hu = load_scan(write_nifti(f"a{suffix}", array)).hu
    assert hu.dtype == dtype
    np.testing.assert_array_equal(hu, array)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"), [(2, -1000, np.int16), (1, -1024, np.int16), (0.5, 3.25, "f4")]
)
def test_slope_and_intercept_are_applied(tmp_path, slope, intercept, dtype):
    stored = hu_volume() // 4
    image = nib.Nifti1Image(stored, oblique_affine())
    image.header.set_slope_inter(slope, intercept)  # nibabel then stores the voxels as they are
    nib.save(image, tmp_path / "a.nii.gz")
    hu = load_scan(tmp_path / "a.nii.gz").hu
    assert hu.dtype == dtype
    np.testing.assert_array_equal(hu, stored * float(slope) + intercept)
    np.testing.assert_array_equal(hu, nib.load(tmp_path / "a.nii.gz").get_fdata())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_voxels_become_padding(write_nifti, bad):
    array = hu_volume().astype(np.float32)
    array[3, 4, 5] = bad
    hu = load_scan(write_nifti("a.nii.gz", array)).hu
    assert hu.dtype == np.int16
    assert hu[3, 4, 5] == PADDING_HU
    assert np.count_nonzero(hu != array) == 1


def test_a_volume_of_nan_is_refused(write_nifti):
    path = write_nifti("a.nii.gz", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(ScanError, match=r"a\.nii\.gz: no voxel has a finite value"):
        load_scan(path)


@pytest.mark.parametrize("trailing", [(1,), (1, 1)])
def test_trailing_axes_of_one_are_dropped(write_nifti, trailing):
    array = hu_volume()
    scan = load_scan(write_nifti("a.nii.gz", array.reshape(*SHAPE, *trailing)))
    np.testing.assert_array_equal(scan.hu, array)


@pytest.mark.parametrize("shape", [(20, 22, 8, 2), (20, 22), (20, 22, 1, 3)])
def test_other_than_three_axes_are_refused(write_nifti, shape):
    with pytest.raises(ScanError, match=r"a\.nii\.gz: expected a 3-D volume, got shape \(20, 22"):
        load_scan(write_nifti("a.nii.gz", hu_volume(shape)))


@pytest.mark.parametrize("shape", [(20, 22, 2), (2, 22, 20), (15, 22, 8), (20, 15, 15)])
def test_too_small_volumes_are_refused(write_nifti, shape):
    with pytest.raises(ScanError, match=re.escape(f"shape {shape} is too small for a chest scan")):
        load_scan(write_nifti("a.nii.gz", hu_volume(shape)))


@pytest.mark.parametrize("shape", [(16, 16, 3), (3, 16, 16)])
def test_the_smallest_volumes_are_accepted(shape):
    assert scan_of(hu_volume(shape)).hu.shape == shape


def test_too_large_volumes_are_refused_before_they_are_touched():
    endless = np.broadcast_to(np.int16(0), (2048, 1024, 1025))
    with pytest.raises(ScanError, match=r"larger than 2\^31 voxels; crop or resample"):
        scan_of(endless)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "R"),
        (np.zeros(SHAPE, dtype=np.complex64), "complex64"),
    ],
)
def test_colour_and_complex_nifti_are_refused(write_nifti, array, dtype):
    with pytest.raises(ScanError, match=rf"a\.nii\.gz: voxels are .*{dtype}.*, not single numbers"):
        load_scan(write_nifti("a.nii.gz", array))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_colour_itk_image_is_refused_with_its_name(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.zeros((8, 22, 20, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"rgb{suffix}"))
    with pytest.raises(ScanError, match=rf"rgb\{suffix}: voxels have 3 components, not one"):
        load_scan(tmp_path / f"rgb{suffix}")


def test_components_of_an_image_in_memory_are_refused():
    with pytest.raises(ScanError, match="image: voxels have 2 components, not one"):
        from_sitk(sitk.Image([20, 22, 8], sitk.sitkVectorInt16, 2))


# ---- reading: broken files ---------------------------------------------------------------------------------------


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated_nifti_is_refused(write_nifti, name):
    with pytest.raises(ScanError, match=rf"{name}: cannot be read \("):
        load_scan(half(write_nifti(name, hu_volume())))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("content", [b"", b"not a scan at all"])
def test_broken_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScanError, match=rf"{name}: cannot be read"):
        load_scan(tmp_path / name)


def test_a_file_that_vanished_is_named(tmp_path):
    with pytest.raises(ScanError, match=r"gone\.nii\.gz: no such file$"):
        load_scan(ScanSource("gone", tmp_path / "gone.nii.gz"))


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    touch(tmp_path, "scan.txt")
    with pytest.raises(
        ScanError, match=r"scan\.txt: not a scan; expected one of \.nii, \.nii\.gz, .* or a DICOM folder"
    ):
        load_scan(tmp_path / "scan.txt")


@pytest.mark.parametrize("names", [(), ("a.nii", "b.nii")])
def test_a_folder_must_hold_exactly_one_scan(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(ScanError, match=f"expected one scan, found {len(names)}; use find_scans for folders"):
        load_scan(tmp_path)


def test_a_folder_of_one_scan_and_a_text_path_are_read(tmp_path, write_nifti):
    write_nifti("only.nii.gz", hu_volume())
    assert load_scan(str(tmp_path)).case == "only"


# ---- reading: geometry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.diag([1.0, 1.0, 0.0, 1.0]), np.diag([1.0, np.nan, 1.0, 1.0]), np.eye(3)],
)
def test_affines_that_cannot_be_inverted_are_refused(affine):
    with pytest.raises(ScanError, match="memory: the affine cannot be inverted"):
        scan_of(hu_volume(), affine)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_header_without_usable_geometry_is_refused(write_nifti, value):
    path = write_nifti("a.nii", hu_volume(), np.diag([2.0, 2.0, 5.0, 1.0]))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, SROW_AT, value)
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"a\.nii: the affine cannot be inverted; repair the header"):
        load_scan(path)


def test_a_sheared_nifti_is_read(write_nifti):
    scan = load_scan(write_nifti("a.nii.gz", hu_volume(), sheared_affine()))
    np.testing.assert_allclose(scan.affine, sheared_affine())
    assert scan.voxel_ml == pytest.approx(0.02)
    assert scan.spacing_mm == pytest.approx((2, 2, np.hypot(5, 1.5)))


def test_geometry_of_a_scan_follows_from_its_affine():
    scan = scan_of(hu_volume())
    assert scan.spacing_mm == pytest.approx(SPACING_MM)
    assert scan.voxel_ml == pytest.approx(np.prod(SPACING_MM) / 1000)
    assert scan.orientation == "LPS"


def sitk_image(array, affine):
    """The image of a RAS+ affine with orthonormal axes, in ITK's LPS+ world."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array.transpose())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_nrrd_and_metaimage_equal_the_nifti(tmp_path, write_nifti, name, dtype):
    array = hu_volume().astype(dtype)
    sitk.WriteImage(sitk_image(array, oblique_affine()), str(tmp_path / name))
    scan, nifti = load_scan(tmp_path / name), load_scan(write_nifti("b.nii.gz", array, oblique_affine()))
    np.testing.assert_array_equal(scan.hu, nifti.hu)
    np.testing.assert_allclose(scan.affine, nifti.affine, atol=1e-4)
    assert scan.hu.dtype == nifti.hu.dtype
    assert scan.header is None


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_an_itk_image_keeps_its_geometry_with_a_trailing_axis(tmp_path, name):
    image = sitk.JoinSeries([sitk_image(hu_volume(), oblique_affine())])
    sitk.WriteImage(image, str(tmp_path / name))
    scan = load_scan(tmp_path / name)
    np.testing.assert_array_equal(scan.hu, hu_volume())
    np.testing.assert_allclose(scan.affine, oblique_affine(), atol=1e-5)


def test_a_flat_itk_image_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(hu_volume((20, 22))), str(tmp_path / "a.mha"))
    with pytest.raises(ScanError, match=r"a\.mha: expected a 3-D volume, got shape \(22, 20\)"):
        load_scan(tmp_path / "a.mha")


# ---- orientation -----------------------------------------------------------------------------------------------


def oriented(code):
    """An array that grows along LPS, and the same seen through axes that grow along ``code``, with its affine."""
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    turn = nib.orientations.ornt_transform(*(nib.orientations.axcodes2ornt(c) for c in ("LPS", code)))
    affine = np.diag([-1.0, -2.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(turn, array.shape)
    return array, nib.apply_orientation(array, turn), affine


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_canonical_axes_grow_to_the_left_the_back_and_the_head(code):
    expected, array, affine = oriented(code)
    np.testing.assert_array_equal(to_canonical(array, affine), expected)
    np.testing.assert_array_equal(from_canonical(expected, affine), array)
    assert "".join(nib.aff2axcodes(affine)) == code


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_from_canonical_undoes_to_canonical(code):
    _, array, affine = oriented(code)
    affine = affine @ np.array([[1, 0.2, 0, 0], [-0.2, 1, 0.1, 0], [0, -0.1, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(from_canonical(to_canonical(array, affine), affine), array)


def test_to_canonical_is_a_view():
    array, affine = oriented("SAR")[1:]
    assert np.shares_memory(to_canonical(array, affine), array)


@pytest.mark.parametrize("code", ["LPS", "RAS", "SAR", "PIL"])
def test_canonical_spacing_follows_the_patient(code):
    scan = scan_of(hu_volume((16, 17, 18)), oriented(code)[2])
    assert canonical_spacing_mm(scan) == (1, 2, 3)
    assert scan.orientation == code


# ---- grids and writing ---------------------------------------------------------------------------------------------


def test_another_shape_is_another_grid():
    scan = scan_of(hu_volume())
    with pytest.raises(GridMismatchError, match=r"the mask has shape \(1, 2, 3\), but scan case has \(20, 22, 8\)"):
        require_same_grid(scan, (1, 2, 3), scan.affine, name="the mask")


def test_another_affine_is_another_grid():
    scan = scan_of(hu_volume())
    moved = scan.affine.copy()
    moved[2, 3] += 0.5
    with pytest.raises(GridMismatchError, match=r"the mask has another affine than scan case: up to 0\.5 apart"):
        require_same_grid(scan, SHAPE, moved, name="the mask")


def test_a_rounded_affine_is_the_same_grid():
    scan = scan_of(hu_volume())
    require_same_grid(scan, list(SHAPE), scan.affine.astype(np.float32) + 1e-4, name="the mask")


CODES = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 2), (2, 4), (4, 0)]
AFFINES = {"straight": np.diag([-0.8, -0.9, 3.0, 1.0]), "oblique": oblique_affine(), "sheared": sheared_affine()}


@pytest.mark.parametrize(("qform_code", "sform_code"), CODES)
@pytest.mark.parametrize("kind", AFFINES)
def test_labels_keep_the_grid_and_the_codes(tmp_path, kind, qform_code, sform_code):
    image = nib.Nifti1Image(hu_volume(), AFFINES[kind])
    image.set_qform(AFFINES[kind], qform_code)
    image.set_sform(AFFINES[kind], sform_code)
    nib.save(image, tmp_path / "a.nii.gz")
    labels = (hu_volume() > 0).astype(np.uint8)
    save_labels(labels, load_scan(tmp_path / "a.nii.gz"), tmp_path / "a_lungs.nii.gz")
    source, saved = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "a_lungs.nii.gz")
    assert saved.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(saved.dataobj, labels)
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(saved.header.get_qform(), source.header.get_qform(), atol=1e-5)
    assert [int(saved.header[f"{form}_code"]) for form in ("qform", "sform")] == [qform_code, sform_code]
    assert saved.header.get_zooms() == pytest.approx(source.header.get_zooms())
    assert saved.header.get_xyzt_units() == source.header.get_xyzt_units()


@pytest.mark.parametrize("qform_code", [0, 1])
def test_labels_are_written_where_the_quaternion_is_none(tmp_path, write_nifti, qform_code):
    path = write_nifti("a.nii", hu_volume(), oblique_affine())
    content = bytearray(path.read_bytes())
    struct.pack_into("<hhfff", content, CODES_AT, qform_code, 1, 5.0, 5.0, 0.0)
    path.write_bytes(content)
    save_labels(np.zeros(SHAPE, np.uint8), load_scan(path), tmp_path / "a_lungs.nii.gz")
    saved = nib.load(tmp_path / "a_lungs.nii.gz")
    np.testing.assert_allclose(saved.affine, oblique_affine(), atol=1e-5)
    assert int(saved.header["qform_code"]) == qform_code


def test_labels_of_other_formats_get_both_forms(tmp_path):
    save_labels(np.ones(SHAPE, np.uint8), scan_of(hu_volume()), tmp_path / "a_lungs.nii.gz")
    saved = nib.load(tmp_path / "a_lungs.nii.gz")
    for affine, code in (saved.get_qform(coded=True), saved.get_sform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(affine, oblique_affine(), atol=1e-4)
    assert saved.header.get_xyzt_units()[0] == "mm"


def test_labels_of_a_scan_with_a_trailing_axis_have_three_axes(tmp_path, write_nifti):
    scan = load_scan(write_nifti("a.nii.gz", hu_volume((*SHAPE, 1)), oblique_affine()))
    save_labels(np.ones(SHAPE, np.uint8), scan, tmp_path / "a_lungs.nii.gz")
    saved = nib.load(tmp_path / "a_lungs.nii.gz")
    assert saved.shape == SHAPE
    np.testing.assert_allclose(saved.affine, oblique_affine(), atol=1e-5)


def test_description_names_the_weights_and_the_use(tmp_path):
    save_labels(np.ones(SHAPE, np.uint8), scan_of(hu_volume()), tmp_path / "a.nii.gz", weights="0123456789abcdef")
    description = nib.load(tmp_path / "a.nii.gz").header["descrip"].item().decode()
    assert "weights 0123456789ab;" in description
    assert description.endswith(DISCLAIMER)


def test_probability_is_written_as_float32(tmp_path):
    probability = np.random.default_rng(0).random(SHAPE)
    save_probability(probability, scan_of(hu_volume()), tmp_path / "p.nii.gz", weights="abc")
    saved = nib.load(tmp_path / "p.nii.gz")
    assert saved.get_data_dtype() == np.float32
    np.testing.assert_array_equal(saved.dataobj, probability.astype(np.float32))


def test_labels_of_another_shape_are_not_written(tmp_path):
    with pytest.raises(GridMismatchError, match=r"a_lungs\.nii\.gz has shape \(2, 2, 2\)"):
        save_labels(np.zeros((2, 2, 2), np.uint8), scan_of(hu_volume()), tmp_path / "a_lungs.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a_lungs.nii.gz"
    target.write_text("old")

    def break_off(_image, stream):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", break_off)
    with pytest.raises(OSError, match="disk full"):
        save_labels(np.zeros(SHAPE, np.uint8), scan_of(hu_volume()), target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "old"


def test_a_temporary_file_is_hidden_and_becomes_the_target(tmp_path):
    with replacing(tmp_path / "a.nii.gz") as temporary:
        temporary.write_text("new")
        assert find_scans(tmp_path) == []
        assert temporary.name.endswith("a.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
