#!/usr/bin/env python3
"""Makes and keeps the upstream stack's training tree: UniAD at its pinned commit, our patches, our overlay.

    uniad_tree.py clone   --tree T --url URL --commit C     a checkout of exactly that commit, complete or not there
    uniad_tree.py patch   --tree T --commit C PATCH...      applied once; says so when they already are
    uniad_tree.py overlay --tree T PATH...                  copies ours into it, never over somebody's own edits

Standard library and git only. Whatever is refused leaves the tree as it was.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from _refusal import Refused, ended

# Pictures of its README: 100 MB that nothing reads, and not every mirror has them
LEFT_OUT = "sources"
# Beside .git's own files: no `git status` shows it, no `git clean` takes it
NOTES = "uniad-make"
# Plain `git apply` forwards, as in the workflow. Backwards, trees hold patches of ours from before, without lines of context.
BACKWARDS = ("--reverse", "--unidiff-zero")


def git(*words: str, tree: Path | None = None, quiet: bool = False) -> str:
    command = ["git", *(["-C", str(tree)] if tree else []), *words]
    if not quiet:
        print("+ " + " ".join(command), flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Refused(f"git {words[0]} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout


def head(tree: Path) -> str:
    if not (tree / ".git").exists():
        raise Refused(f"{tree} is no checkout of UniAD: make clone")
    return git("rev-parse", "HEAD", tree=tree, quiet=True).strip()


def pinned(tree: Path, commit: str) -> None:
    found = head(tree)
    if found != commit:
        raise Refused(
            f"{tree} is at {found[:8]}, not at the pinned {commit[:8]}: git -C {tree} checkout {commit[:8]}, or move it away"
        )


def clone(tree: Path, url: str, commit: str) -> None:
    if tree.exists() and any(tree.iterdir()):
        pinned(tree, commit)
        print(f"{tree}: already a checkout of {commit[:8]}")
        return
    # Cloned beside its place and renamed when complete: an interrupted clone leaves nothing that looks like one.
    partial = tree.parent / f".{tree.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    try:
        git("clone", "--no-checkout", "--quiet", url, str(partial))
    except Refused as error:
        raise Refused(f"{error}; UNIAD_GIT_URL={url} must be a clone of UniAD that can be reached from here") from None
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}", tree=partial, quiet=True)
    except Refused:
        raise Refused(f"UNIAD_GIT_URL={url} has no commit {commit[:8]}: it is not UniAD, or not all of it") from None
    git("sparse-checkout", "set", "--no-cone", "/*", f"!/{LEFT_OUT}/", tree=partial)
    git("checkout", "--quiet", "--detach", commit, tree=partial)
    pinned(partial, commit)
    missing = git("ls-files", "--deleted", tree=partial, quiet=True).split()
    if missing:
        raise Refused(f"the checkout lacks {missing[0]}: a full disk, or a clone that is not complete")
    if tree.exists():
        tree.rmdir()
    partial.rename(tree)
    print(f"{tree}: UniAD at {commit[:8]}")


def notes(tree: Path) -> Path:
    path = Path(git("rev-parse", "--absolute-git-dir", tree=tree, quiet=True).strip()) / NOTES
    path.mkdir(exist_ok=True)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def overlaid(tree: Path) -> dict[str, str]:
    """Files that the overlay wrote, with their digests."""
    path = notes(tree) / "overlay.json"
    return json.loads(path.read_text()) if path.exists() else {}


def applies(tree: Path, patch: Path, *, backwards: bool = False) -> str:
    """Nothing where the patch applies, else git's reason."""
    words = ["apply", "--check", *(BACKWARDS if backwards else []), str(patch)]
    done = subprocess.run(["git", "-C", str(tree), *words], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return "" if done.returncode == 0 else (lines[0].removeprefix("error: ") if lines else "git apply refuses it")


def changed_files(tree: Path) -> list[str]:
    """Tracked files that differ from the commit, but for what the overlay wrote."""
    ours = overlaid(tree)
    names = git("diff", "--name-only", "-z", "HEAD", tree=tree, quiet=True).split("\0")
    return [n for n in names if n and not ((tree / n).is_file() and ours.get(n) == digest(tree / n))]


def patch(tree: Path, commit: str, patches: list[Path]) -> None:
    pinned(tree, commit)
    patches = [p.resolve() for p in patches]
    for path in patches:
        if not path.is_file():
            raise Refused(f"{path} is missing")
    kept = notes(tree) / "patches"
    before = sorted(kept.glob("*.patch")) if kept.exists() else []
    same = [p.name.split("-", 1)[1] for p in before] == [p.name for p in patches] and all(
        a.read_bytes() == b.read_bytes() for a, b in zip(before, patches)
    )
    if before and same and not applies(tree, before[-1], backwards=True):
        print(f"already applied: {', '.join(p.name for p in patches)}")
        return
    for path in reversed(before):  # another version of ours: taken back first
        reason = applies(tree, path, backwards=True)
        if reason:
            name = path.name.split("-", 1)[1]
            raise Refused(f"an earlier {name} cannot be taken back from {tree} ({reason}): undo your changes")
        git("apply", *BACKWARDS, str(path), tree=tree)
        path.unlink()
    if not before and all(not applies(tree, p, backwards=True) for p in patches):
        print(f"already applied: {', '.join(p.name for p in patches)}")  # by hand, as in upstream
    else:
        changed = changed_files(tree)
        if changed:
            more = f" and {len(changed) - 1} more" if changed[1:] else ""
            raise Refused(f"{tree} has local changes in {changed[0]}{more}: undo them or keep them (git -C {tree} diff)")
        done: list[Path] = []
        for path in patches:
            reason = applies(tree, path)
            if reason:
                for one in reversed(done):
                    git("apply", *BACKWARDS, str(one), tree=tree, quiet=True)
                raise Refused(f"{path.name} does not apply to {tree}: {reason}")
            git("apply", str(path), tree=tree)
            done.append(path)
    kept.mkdir(exist_ok=True)
    for number, path in enumerate(patches):
        shutil.copyfile(path, kept / f"{number:02d}-{path.name}")


def overlay(tree: Path, sources: list[Path]) -> None:
    head(tree)
    files: dict[str, Path] = {}
    for source in sources:
        if source.is_dir():
            found = [p for p in sorted(source.rglob("*")) if p.is_file() and not {"__pycache__", "build"} & set(p.parts)]
            files.update({p.as_posix(): p for p in found if p.suffix not in (".so", ".pyc") and ".egg-info" not in str(p)})
        elif source.is_file():
            files[source.as_posix()] = source
        else:
            raise Refused(f"{source} is missing")
    ours = overlaid(tree)
    new = {name: digest(path) for name, path in files.items()}
    for name in files:
        target = tree / name
        if not target.exists() or digest(target) in (new[name], ours.get(name)):
            continue
        tracked = subprocess.run(
            ["git", "-C", str(tree), "diff", "--quiet", "HEAD", "--", name], capture_output=True, check=False
        ).returncode == 0 and git("ls-files", "--", name, tree=tree, quiet=True)  # fmt: skip
        if not tracked:
            raise Refused(f"{target} was changed by hand: put your change into {name} of this repository, or remove it there")
    copied = 0
    for name, path in files.items():
        target = tree / name
        if target.exists() and digest(target) == new[name]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.copy2(path, partial)
        partial.replace(target)
        copied += 1
    for name in set(ours) - set(new):  # ours once, ours no more
        target = tree / name
        if target.is_file() and digest(target) == ours[name]:
            target.unlink()
    (notes(tree) / "overlay.json").write_text(json.dumps(new, indent=0, sort_keys=True))
    print(f"{tree}: {copied} of {len(files)} files copied" if copied else f"{tree}: overlay is up to date")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("clone", "patch", "overlay"))
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--url")
    parser.add_argument("--commit")
    args = parser.parse_intermixed_args()
    try:
        # Machines that share the folder take turns; the second finds the step done.
        args.tree.parent.mkdir(parents=True, exist_ok=True)
        lock = open(args.tree.parent / ".lock", "w")  # noqa: SIM115 - held until the end
        fcntl.flock(lock, fcntl.LOCK_EX)
        if args.step == "clone":
            clone(args.tree, args.url, args.commit)
        elif args.step == "patch":
            patch(args.tree, args.commit, args.paths)
        else:
            overlay(args.tree, args.paths)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}") from None
    except KeyboardInterrupt:
        print(f"error: {args.step} was interrupted: the same line again does it anew", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
