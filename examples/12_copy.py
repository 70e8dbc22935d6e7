"""Chapter 12: copy a folder with a pool and count the files as they are done; then the same in one line."""

import filecmp
import os
import pathlib
import shutil
import tempfile

from multitask import Pool, copytree


def make_folder(top):
    """Subfolders, binary files, an empty folder, a link, one file that is executable."""
    for n in range(60):
        file = top / f"folder {n % 5}" / f"{n}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(100 * n) + b"\r\n\x00\xff")
    (top / "empty").mkdir()
    (top / "folder 0" / "0.bin").chmod(0o755)
    (top / "link").symlink_to("folder 0/0.bin")


def copy_one(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copy2(source, target, follow_symlinks=False)


with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder, "source")
    make_folder(source)

    # By hand, the exercise of every course: results are counted as they come, one line shows how far it is.
    by_hand = pathlib.Path(folder, "by hand")
    files = [path for path in source.rglob("*") if not path.is_dir()]
    with Pool(2) as pool:
        pairs = [(path, by_hand / path.relative_to(source)) for path in files]
        for done, _ in enumerate(pool.imap_unordered(lambda pair: copy_one(*pair), pairs), 1):
            print(f"\r{done * 100 // len(files):3} % of {len(files)} files", end="")
    print()
    assert all(filecmp.cmp(path, copied, shallow=False) for path, copied in pairs)

    # With copytree: the same meaning as shutil's, the empty folder, modes, times and links too.
    target = pathlib.Path(folder, "target")
    copytree(source, target, symlinks=True)
    assert sorted(p.relative_to(source) for p in source.rglob("*")) == sorted(
        p.relative_to(target) for p in target.rglob("*")
    )
    for path in files:
        copied = target / path.relative_to(source)
        assert filecmp.cmp(path, copied, shallow=False)
        assert path.lstat().st_mode == copied.lstat().st_mode
        assert path.lstat().st_mtime_ns == copied.lstat().st_mtime_ns
    assert (target / "link").is_symlink()
    print("copytree made an exact copy of", len(files), "files")
